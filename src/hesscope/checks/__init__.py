"""check_problem: may the derivatives of this problem be trusted, and if not, why?"""

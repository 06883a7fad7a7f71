"""A symmetric linear operator: a size, a product with a block of vectors, an inner product.

Every algorithm in hesscope uses these three things and nothing else, so it runs unchanged on a
5 x 5 matrix, on the Hessian of a network, and on an operator of your own.
"""

from hesscope.operator.check import check_operator as check_operator
from hesscope.operator.combination import Combination as Combination
from hesscope.operator.combination import Identity as Identity
from hesscope.operator.derived import Derived as Derived
from hesscope.operator.derived import StandIn as StandIn
from hesscope.operator.door import OperatorLike as OperatorLike
from hesscope.operator.door import as_operator as as_operator
from hesscope.operator.door import symmetric_operator as symmetric_operator
from hesscope.operator.inner import largest_norm as largest_norm
from hesscope.operator.inner import norm as norm
from hesscope.operator.place import Place as Place
from hesscope.operator.placed import PlaceLike as PlaceLike
from hesscope.operator.placed import placed as placed
from hesscope.operator.products import column_products as column_products
from hesscope.operator.products import finite_product as finite_product
from hesscope.operator.products import refuse_size as refuse_size
from hesscope.operator.scaled import OutOfRangeError as OutOfRangeError
from hesscope.operator.scaled import at_order_one as at_order_one
from hesscope.operator.scaled import divided as divided
from hesscope.operator.scaled import in_units as in_units
from hesscope.operator.scaled import refuse_out_of_range as refuse_out_of_range
from hesscope.operator.symmetric import SpectralForm as SpectralForm
from hesscope.operator.symmetric import SymmetricOperator as SymmetricOperator

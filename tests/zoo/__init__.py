"""Models that nobody here wrote, in tiny sizes, against references that share nothing with us.

`make test-zoo` runs it. A row of the tables in `text`, `senses`, `blocks` and `guests` says how a
model is made, fed and asked for its loss; `reference` differentiates that loss without hesscope;
`examine` asks hesscope; `verdict` compares.
"""

"""Language models: loading one (load.py), what each of its parameters is (architectures.py), and a hash of its weights.

May be imported from every room above (find, lottery, watch, …). Imports from data, runtime, config and errors only.
"""

"""Gains and costs of skpref. Each command is run as `python -m benchmarks.<name>`.

Modules whose name begins with an underscore are shared by the commands.
"""

"""What skpref gains and what it costs. Each command is run as `python -m benchmarks.<name>`.

Modules whose name begins with an underscore are shared by the commands.
"""

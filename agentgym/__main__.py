"""`python -m agentgym` is the command line."""

from agentgym.cli import main

main()

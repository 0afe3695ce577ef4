"""`python -m perdure.api.cli`: how `perdure dev` starts its server, whatever is on the PATH."""

from perdure.api.cli import main

main()

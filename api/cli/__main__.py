"""`python -m perdure.api.cli`: how `perdure dev` starts its server, independent of the PATH."""

from perdure.api.cli import main

main()

"""`python -m growbin` is `growbin`."""

from growbin.cli import main

raise SystemExit(main())

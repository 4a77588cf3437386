"""Unit tests of deploy/ray that need no Ray."""

import sys

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "deploy" / "ray"))

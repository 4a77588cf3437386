"""Tests of the chart and of all manifests, in the environment .venv-deploy (`make test-deploy`).

They need neither torch nor the service: this folder has its own pytest.ini, so that
tests/conftest.py is not imported.
"""

"""The command line of the peers."""

import argparse


def http_port() -> int:
    """Return the port of a peer that serves HTTP alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http-port", type=int, required=True)
    return int(parser.parse_args().http_port)

import os


def rows(sizes):
    yield os._exit(3)

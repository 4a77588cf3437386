"""What is installed: the packages of gRPC, and the distribution rope-core."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from service import __version__

GRPC_PACKAGES = ("grpc", "grpc_health", "grpc_reflection")
"""Packages of the extra `grpc`. The second and the third depend on protobuf."""

GRPC_REMEDY = "pip install 'rope-service[grpc]'"


def has_grpc() -> bool:
    """Tell whether the extra `grpc` is installed."""
    return all(find_spec(name) is not None for name in GRPC_PACKAGES)


def core_conflict() -> str | None:
    """Return why the package rope_core is not the one of this version, None if it is.

    The distributions rope-service and rope-core both contain it. The one that is installed or
    uninstalled last writes or removes the files of both.
    """
    try:
        core_version = version("rope-core")
    except PackageNotFoundError:
        core_version = __version__
    if core_version != __version__:
        conflict = (
            f"rope-core {core_version} is installed beside rope-service {__version__}, and both "
            "contain the package rope_core"
        )
    elif (spec := find_spec("rope_core")) is None or spec.origin is None:  # None: a folder alone
        conflict = "the package rope_core is missing: uninstalling rope-core removes it"
    else:
        return None
    return f"{conflict}; uninstall rope-core and rope-service, then install rope-service alone"

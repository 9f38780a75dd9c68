"""Libraries that only a part of the study needs: a function that uses one imports it below `needs`."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(package: str, module: str = "") -> Iterator[None]:
    """Say in one line how to install a library if the import inside this context does not find it.

    Args:
        package: what pip installs.
        module: what Python imports, where that has another name.

    Raises:
        ModuleNotFoundError: if the library is not installed; it names the package. A library that is installed but
            lacks a part of its own raises what it raises.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != (module or package):
            raise
        raise ModuleNotFoundError(f"{package} is not installed: pip install {package}", name=error.name) from None

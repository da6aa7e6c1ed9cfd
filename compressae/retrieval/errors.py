"""The errors of the package: input that cannot be used, and extras that are not installed."""

#: Control characters as escapes.
_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


class InputError(ValueError):
    """Input that cannot be used; the message names it, what was expected and the cure.

    The command line prints the message as one line and exits with 1. Control characters, which a
    file's content may bring into it, are escaped.

    >>> raise InputError("K = 0: expected at least 1 result a query")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: K = 0: expected at least 1 result a query
    >>> print(InputError("red" + chr(27) + "[31m"))
    red\\x1b[31m
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.translate(_ESCAPED))


class UnknownIdError(InputError):
    """An id that a catalogue lacks."""


class RerankError(InputError):
    """Embeddings to rerank with that do not go with the index, or cannot be read any more."""


class MissingExtraError(InputError):
    """An optional library is not installed; the message holds the pip command that installs it.

    Args:
        library: name of the library.
        extra: the extra of compressae that installs it.
        use: what needs it.

    Attributes:
        library, extra, use: as given.

    >>> str(MissingExtraError("annoy", "baselines", "baseline 'annoy'"))
    "baseline 'annoy' needs annoy; pip install 'compressae[baselines]'"
    """

    def __init__(self, library: str, extra: str, use: str) -> None:
        super().__init__(f"{use} needs {library}; pip install 'compressae[{extra}]'")
        self.library, self.extra, self.use = library, extra, use

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.library, self.extra, self.use)  # As from another process.

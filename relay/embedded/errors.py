"""What can go wrong with the embedded servers, each with what to do next."""


class EmbeddedError(Exception):
    """An embedded server cannot do what was asked; the message says why and what to do next."""


class NotInstalledError(EmbeddedError):
    """The programs are not installed: they come with the extra `outbox-relay[demo]`."""


class NoDiskSpaceError(EmbeddedError):
    """The disk of a folder is full, or nearly so."""


class FolderError(EmbeddedError):
    """A folder cannot be written to or reached by the account that PostgreSQL runs as."""


class PortTakenError(EmbeddedError):
    """The port that was asked for is in use."""


class RegistryUnreachableError(EmbeddedError):
    """Kafka is not in the cache yet and no Maven repository can be reached to fetch it."""


class WrongArtifactError(EmbeddedError):
    """What a Maven repository sent is not the file that this version was tested with."""


class ServerDiedError(EmbeddedError):
    """A server ended while it was starting; the message has the end of its log."""


class ServerStuckError(EmbeddedError):
    """A server runs and does not answer in time; the message has the end of its log."""


class NotRunningError(EmbeddedError):
    """The embedded servers of a folder are not up."""

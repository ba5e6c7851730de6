"""AWS's words for its errors, by what they mean: those that S3 and EC2 share, or have one each; and the errors of its
library, by the names of their classes, so that none has to be imported."""

from __future__ import annotations

from collections.abc import Collection

from remoterun.agent.shared.archive import EXPIRED

__all__ = ["DENIED", "EXPIRED", "LATER", "LOGIN_ENDED", "NO_CREDENTIALS", "UNKNOWN_KEY", "is_one_of"]

DENIED = {
    *("UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "UnauthorizedAccess"),
    *("AllAccessDisabled", "AccountProblem", "403", "Forbidden"),
}
"""The credentials are right, and do not allow this."""
UNKNOWN_KEY = {
    *("AuthFailure", "InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),
    *("IncompleteSignature", "SignatureDoesNotMatch", "InvalidSignatureException"),
    *("InvalidToken", "InvalidSecurity", "NotSignedUp"),
}
"""The credentials are not right."""
LATER = {
    *("RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException", "SlowDown"),
    *("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable", "RequestTimeout"),
}
"""The same may succeed when it is tried again."""
LOGIN_ENDED = {
    *("SSOTokenLoadError", "UnauthorizedSSOTokenError", "SSOError", "TokenRetrievalError"),
    *("LoginRefreshRequired", "LoginTokenLoadError", "LoginError"),
}
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError"}


def is_one_of(error: Exception, names: Collection[str]) -> bool:
    """Whether an error is of a class, or below one, that has one of these names."""
    return any(cls.__name__ in names for cls in type(error).__mro__)

"""AWS's words for its errors, by what they mean: those that S3 and EC2 share, or have one each."""

from __future__ import annotations

from remoterun.agent.shared.bucket import EXPIRED

__all__ = ["DENIED", "EXPIRED", "LATER", "UNKNOWN_KEY"]

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

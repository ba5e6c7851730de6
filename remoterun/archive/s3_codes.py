"""AWS's words for its errors, by what they mean: those that S3 and EC2 share, or have one each; and the errors of its
library, by the names of their classes, so that none has to be imported."""

from __future__ import annotations

from collections.abc import Collection

from remoterun.agent.shared.archive import EXPIRED

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
_LOGIN: tuple[tuple[Collection[str], str, str], ...] = (
    (
        {
            *EXPIRED,
            *("SSOTokenLoadError", "UnauthorizedSSOTokenError", "SSOError", "TokenRetrievalError"),
            *("LoginRefreshRequired", "LoginTokenLoadError", "LoginError"),
        },
        "the AWS login has expired",
        "aws sso login   or whatever gave you these credentials",
    ),
    (
        UNKNOWN_KEY,
        "these AWS credentials are not accepted",
        "aws sts get-caller-identity   shows which are used\naws configure   sets others",
    ),
    (
        {"NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError"},
        "there are no AWS credentials",
        "aws configure   or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    ({"CredentialRetrievalError"}, "the AWS credentials can't be fetched", "aws sso login"),
    (
        {"MissingDependencyException"},
        "AWS's library lacks a part that this login needs",
        "pipx inject remoterun 'botocore[crt]'   or, with pip: pip install 'botocore[crt]'",
    ),
    (
        {"EOFError"},
        "the role of this AWS login asks for an MFA code, and there is no terminal to type it in",
        "aws sts get-caller-identity   asks for it, and keeps the login for an hour",
    ),
)


FREE_PLAN, _MARKETPLACE = "not eligible for Free Tier", "accept terms and subscribe"
"""Parts of messages by which AWS refuses an account on its free plan, and an image of its Marketplace: they have no
code of their own."""
POLICY = "remoterun doctor aws --policy   prints the policy with everything that is needed"
_SUPPORT = "https://support.console.aws.amazon.com/support/home   of the kind Account and billing, which costs nothing"
_ACCOUNT = {
    "OptInRequired": (
        "this account has not opted in to this region, or its sign-up is not complete",
        "aws account enable-region --region-name {region}   takes some minutes; or another --region",
    ),
    _MARKETPLACE: (
        "this account has no subscription for the image, which is one of AWS Marketplace",
        "accept its terms at AWS Marketplace, then try again; or leave out `image` of the machine type",
    ),
    "Client.InternalError": (
        "AWS can't start a host here: its disk is encrypted with a key that these credentials may not use",
        "aws ec2 get-ebs-default-kms-key-id --region {region}   names the key\nwhoever has the key may allow "
        "kms:CreateGrant, kms:GenerateDataKeyWithoutPlaintext, kms:Decrypt, kms:DescribeKey and kms:ReEncrypt* on it",
    ),
    "Client.VolumeLimitExceeded": (
        "the account's limit for disks is reached: `Storage for General Purpose SSD (gp3) volumes, in TiB`",
        "aws service-quotas request-service-quota-increase --service-code ebs --quota-code L-7A658B76 "
        "--desired-value TIB --region {region}",
    ),
    "PendingVerification": (
        "AWS is still verifying this new account: that takes minutes, and up to 4 hours",
        "try again later; after 4 hours, ask AWS: " + _SUPPORT,
    ),
    "Blocked": ("AWS has blocked this account", "ask AWS why: " + _SUPPORT),
    "AccountDisabled": ("AWS has disabled this account", "ask AWS why: " + _SUPPORT),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        "this account has not used spot hosts yet, and these credentials may not make AWS's role for them",
        "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com   by who may; or without `spot=True`",
    ),
    "RulesPerSecurityGroupLimitExceeded": (
        "the security group `remoterun` has as many rules as AWS allows",
        "remoterun machines gc aws",
    ),
    FREE_PLAN: (
        "this account is on AWS's free plan, which has no machines of this type",
        "aws freetier upgrade-account-plan --account-plan-type PAID --region us-east-1   what is left of its credits "
        "stays\nor: https://console.aws.amazon.com/billing/home   Upgrade plan",
    ),
}
"""What an account is not open for yet → in words, and what opens it."""


def login_fault(error: Exception | str) -> tuple[str, str] | None:
    """(what is wrong with the login, what mends it), if that is what an error is about: AWS's code, or one of its
    library's, which may be of a class below the one that is meant."""
    names = {error} if isinstance(error, str) else {cls.__name__ for cls in type(error).__mro__}
    return next(((fault, mended_by) for meant, fault, mended_by in _LOGIN if not names.isdisjoint(meant)), None)


def account_fault(code: str, said: str, region: str) -> tuple[str, str] | None:
    """(what the account is not open for, what opens it), if that is what AWS's code, or what it has said, means."""
    fault = _ACCOUNT.get(next((text for text in (FREE_PLAN, _MARKETPLACE) if text in said), code))
    return None if fault is None else (fault[0], fault[1].format(region=region))

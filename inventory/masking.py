"""Hiding passwords in what the program prints."""

import re

MASK = "***"


def mask_url(url: str) -> str:
    """Mask the password in a URL, in the user part and in the query; in doubt, mask more."""
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    if at and ":" in user:
        rest = f"{user.partition(':')[0]}:{MASK}@{host}"
    return re.sub(
        r"((?:password|passwd|passphrase)=)[^&\s]*", rf"\1{MASK}", scheme + separator + rest, flags=re.IGNORECASE
    )

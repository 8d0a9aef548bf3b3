"""What a token must say; apart from the API, so that making one does not load the API."""

from typing import Final

from api.auth import TokenRules
from inventory.settings import Settings

# The issuer that development tokens name where no other is set.
DEVELOPMENT_ISSUER: Final = "inventory-development"


def token_rules(settings: Settings) -> TokenRules:
    """Return what a token must say."""
    issuer = settings.api_token_issuer or DEVELOPMENT_ISSUER
    return TokenRules(issuer, settings.api_token_audience, settings.api_roles_claim)

"""A budget at AWS: who is in front of the bill gets mail before it is high."""

from __future__ import annotations

import json
from typing import Any

TAG = "remoterun:token"
"""What all that a host costs is tagged with."""
ACTIVATE = f"aws ce update-cost-allocation-tags-status --cost-allocation-tags-status TagKey={TAG},Status=Active"
"""What makes AWS's bill, and so its budgets, know that tag: from the account that pays."""


def budget_command(account: str, dollars_a_month: float, email: str) -> str:
    """What makes AWS send mail at 50, 80 and 100 % of a budget for all that has our tag: one command for a shell."""
    budget = {
        "BudgetName": "remoterun",
        "BudgetLimit": {"Amount": f"{dollars_a_month:g}", "Unit": "USD"},
        "TimeUnit": "MONTHLY",
        "BudgetType": "COST",
        "FilterExpression": {"Not": {"Tags": {"Key": TAG, "MatchOptions": ["ABSENT"]}}},
        "Metrics": ["UnblendedCost"],
    }
    mail = [{"SubscriptionType": "EMAIL", "Address": email}]
    above: dict[str, Any] = {"NotificationType": "ACTUAL", "ComparisonOperator": "GREATER_THAN"}
    notices = [
        {"Notification": above | {"Threshold": part, "ThresholdType": "PERCENTAGE"}, "Subscribers": mail}
        for part in (50, 80, 100)
    ]
    return (
        f"aws budgets create-budget --account-id {account} \\\n  --budget '{json.dumps(budget)}' \\\n"
        f"  --notifications-with-subscribers '{json.dumps(notices)}'"
    )

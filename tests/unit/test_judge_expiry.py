"""The fold of a batch: expiries, and due holds that expire in favour of a shortage."""

from domain.commands import ExpireCart, ExpireOrder, UpdateCart
from domain.due import DueHold
from domain.model import OrderStatus, Reason
from engine.tasks import ExpiryTask, Verdict
from tests.unit.domain_cases import at
from tests.unit.judging import APPLIED, DUPLICATE, REFUSED, Fold, cause, created, dispositions, event, paid


def test_an_expiry_is_counted_once(fold: Fold) -> None:
    """The hold that expires counts; further attempts are duplicates and do not."""
    fold.batch(created("o"))
    expiry = ExpiryTask(ExpireOrder("o", at(60)))
    changes = fold.batch(expiry, expiry, expiry)
    assert [Verdict(APPLIED), Verdict(DUPLICATE), Verdict(DUPLICATE)] == changes.verdicts
    assert (1, {"o"}, {}) == (changes.expired, changes.orders, changes.inbox)
    assert OrderStatus.EXPIRED is fold.state.orders["o"].status


def test_every_expiry_of_a_batch_is_counted(fold: Fold) -> None:
    """Of orders and carts."""
    fold.batch(created("o"), event(UpdateCart(cause("cart"), "c", {"p": 4})))
    assert 2 == fold.batch(ExpiryTask(ExpireOrder("o", at(60))), ExpiryTask(ExpireCart("c", at(60)))).expired


def test_due_holds_expire_in_favour_of_a_shortage(fold: Fold) -> None:
    """They are counted, and what they publish comes before what the command does."""
    fold.batch(created("a", 4), event(UpdateCart(cause("cart"), "c", {"p": 4})))
    changes = fold.batch(created("new", 9), due_before=at(60))
    assert [Verdict(APPLIED)] == changes.verdicts
    assert (2, {"a", "new"}, {"c"}, {"p"}) == (changes.expired, changes.orders, changes.carts, changes.products)
    assert ["expired", "expired", "reserved"] == [
        row.type.rpartition(".")[2] for row in changes.outbox if row.topic == "inventory.reservations"
    ]
    assert ["RELEASE", "RELEASE", "RESERVE"] == [entry.type for entry in changes.ledger]
    assert {"p"} == changes.short


def test_without_a_shortage_due_holds_stand(fold: Fold) -> None:
    """Nothing expires where there is enough for everybody."""
    fold.batch(created("a", 4))
    changes = fold.batch(created("new", 6), due_before=at(60))
    assert (0, {"new"}) == (changes.expired, changes.orders)


def test_a_shortage_is_named(fold: Fold) -> None:
    """The products of which more was wanted than available; due holds on them are looked for."""
    changes = fold.batch(created("o", 11), created("other", 3))
    assert [REFUSED, APPLIED] == dispositions(changes)
    assert {"p"} == changes.short
    assert Reason.INSUFFICIENT_STOCK is changes.verdicts[0].reason


def test_every_hold_that_a_batch_makes_is_named(fold: Fold) -> None:
    """Of orders and carts with their deadlines, also one that ended within the batch."""
    cart = event(UpdateCart(cause("cart", 2), "c", {"p": 1}))
    emptied = event(UpdateCart(cause("emptied", 3), "d", {}))
    changes = fold.batch(created("o"), paid(), created("rejected", 99), cart, emptied)
    assert {DueHold(at(15), "order", "o"), DueHold(at(32), "cart", "c")} == changes.holds
    assert ({"o", "rejected"}, {"c", "d"}) == (changes.orders, changes.carts)

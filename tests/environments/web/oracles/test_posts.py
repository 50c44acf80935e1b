"""Oracles of mail, posts and the menu of dishes, on pages written by hand."""

from collections.abc import Callable

import pytest

INBOX = """
text "Primary"
[1] clickable "Ann Ut bob. Nunc.."
[2] clickable "trash"
[3] clickable "star"
[4] clickable "Bob In. Leo.."
[5] clickable "trash"
[6] clickable "star clicked"
"""
OPEN = """
[7] clickable "close email"
[8] clickable "trash"
[9] clickable "star"
[10] clickable "Reply"
[11] clickable "Forward"
"""
REPLY = '[12] clickable "send reply"\n[13] textarea value="{}"'
FORWARD = '[12] clickable "send forward"\n[13] textbox value="{}"\n[14] textarea value="Leo."'
POSTS = """
text "Day @ann 2h ago"
[1] clickable "reply"
[2] clickable "more"
[3] clickable "like"
text "Orr @bob 3h ago"
[4] clickable "reply"
[5] clickable "more"
[6] clickable "like"
text "Day @ann 5h ago"
[7] clickable "reply"
[8] clickable "more"
[9] clickable "like"
[10] button "Submit"
"""
MENU = """
text "Garlic bread"
[1] clickable "-"
[2] clickable "+"
text "Chocolate cake"
[3] clickable "-"
[4] clickable "+"
text "Caesar Salad"
[5] clickable "-"
[6] clickable "+"
[7] button "Order!"
"""
ASK = "Find the email by Bob and reply to them with the text "
SEND = "Find the email by Bob and forward that email to Cy."


@pytest.mark.parametrize(
    ("goal", "page", "expected"),
    [
        ("Find the email by Bob and click the trash icon to delete it.", INBOX,
         'Bob\'s mail. Click trash. click("5")'),
        ("Find the email by Ann and click the star icon to mark it as important.", INBOX,
         'Ann\'s mail. Click star. click("3")'),
        (ASK + '"Ut.".', INBOX, 'Open Bob\'s mail. click("4")'),
        (ASK + '"Ut.".', OPEN, 'Click "Reply". click("10")'),
        (ASK + '"Ut.".', REPLY.format(""), 'Reply is Ut.. type("13", "Ut.")'),
        (ASK + '"Ut.".', REPLY.format("Ut."), 'Send it. click("12")'),
        (SEND, OPEN, 'Click "Forward". click("11")'),
        (SEND, FORWARD.format(""), 'To is Cy. type("13", "Cy")'),
        (SEND, FORWARD.format("Cy"), 'Send it. click("12")'),
    ],
)  # fmt: skip
def test_mail(act: Callable[..., str], goal: str, page: str, expected: str) -> None:
    assert act("email-inbox", goal, page) == expected


@pytest.mark.parametrize(
    ("fields", "page", "expected"),
    [
        ({"task": "delete", "by": "Ann"}, INBOX, 'click("2")'),
        ({"task": "reply", "by": "Ann", "message": "Ut."}, REPLY.format(""), 'type("13", "Ut.")'),
        ({"by": "Ann", "to": "Cy"}, FORWARD.format(""), 'type("13", "Cy")'),
    ],
)
def test_mail_in_own_words(
    act: Callable[..., str], fields: dict[str, str], page: str, expected: str
) -> None:
    answer = act("email-inbox-nl-turk", "Pls do it", page, evaluated=fields)
    assert answer.endswith(f" {expected}")


def test_icons_and_menu_entries_of_a_post(act: Callable[..., str]) -> None:
    goal = 'For the user @bob, click on the "{}" button.'
    assert act("social-media", goal.format("Like"), POSTS).endswith(' click("6")')
    answer = act("social-media", goal.format("Mute"), POSTS)
    assert answer == 'Open the menu on the post by @bob. click("5")'
    opened = POSTS.replace("[6]", '[11] menuitem "Mute @bob"\n[6]')
    assert act("social-media", goal.format("Mute"), opened).endswith(' click("11")')


def test_all_or_some_posts(act: Callable[..., str]) -> None:
    everything = 'Click the "Like" button on all posts by @ann and then click Submit.'
    calls = ['click("3")', 'click("9")', 'click("10")']
    for done, call in enumerate(calls):
        answer = act("social-media-all", everything, POSTS, *calls[:done])
        assert answer.endswith(f" {call}")
    one = 'Click the "Like" button on 1 post by @ann and then click Submit.'
    assert act("social-media-some", one, POSTS, 'click("3")') == 'Click "Submit". click("10")'


@pytest.mark.parametrize(
    ("goal", "calls"),
    [
        ("Order one of each item: Chocolate cake, Garlic bread",
         ['click("4")', 'click("2")', 'click("7")']),
        ("Order 2 items that are vegan", ['click("6")', 'click("6")', 'click("7")']),
    ],
)  # fmt: skip
def test_order_food(act: Callable[..., str], goal: str, calls: list[str]) -> None:
    for done, call in enumerate(calls):
        assert act("order-food", goal, MENU, *calls[:done]).endswith(f" {call}")

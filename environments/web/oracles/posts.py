"""Oracles of tasks with a list of entries that have icons: mail, posts, a menu of dishes."""

import itertools

from agentgym.environments.web.oracles.base import (
    OracleContext,
    Step,
    click,
    fill_form,
    first,
    oracle,
)
from agentgym.environments.web.view import Element


@oracle("email-inbox-delete", "email-inbox-important", "email-inbox-reply", "email-inbox-forward")
@oracle("email-inbox", "email-inbox-noscroll", "email-inbox-star-reply")
def mail(ctx: OracleContext) -> Step:
    """Delete, star, answer or forward the mail of the goal's sender."""
    (sender,) = ctx.ask(r"email by (\w+)")
    if "trash" in ctx.goal:
        return _mail(ctx, sender, "trash")
    if "star" in ctx.goal:
        return _mail(ctx, sender, "star")
    if "reply" in ctx.goal:
        return _mail(ctx, sender, "Reply", *ctx.ask(r'text "(.+)"'))
    return _mail(ctx, sender, "Forward", *ctx.ask(r"that email to (\w+)"))


@oracle("email-inbox-forward-nl", "email-inbox-forward-nl-turk", "email-inbox-nl-turk")
def mail_in_own_words(ctx: OracleContext) -> Step:
    """As `mail`, but people wrote the goals: the page's fields say what they mean."""
    wish = ctx.evaluate("core.currentFields")
    task = {"delete": "trash", "star": "star", "reply": "Reply"}.get(wish.get("task"), "Forward")
    return _mail(ctx, wish["by"], task, wish.get("message") or wish.get("to") or "")


def _mail(ctx: OracleContext, sender: str, task: str, text: str = "") -> Step:
    """One step; the inbox, the open mail and the answer are told apart by what they show."""
    send = [e for e in ctx.elements() if e.name.startswith("send ")]
    if send:
        tag, label = ("textarea", "Reply") if task == "Reply" else ("input", "To")
        field = first((e for e in ctx.fields() if e.tag == tag), tag)
        return fill_form([(label, field, text)], ("Send it.", click(send[0])))
    if ctx.elements(name="close email"):
        return f'Click "{task}".', click(ctx.element(name=task))
    below = list(itertools.dropwhile(lambda e: e.name.split()[:1] != [sender], ctx.elements()))
    entry = first(below, f"mail by {sender}")
    if task in ("trash", "star"):
        icon = first((e for e in below if e.name == task), task)
        return f"{sender}'s mail. Click {task}.", click(icon)
    return f"Open {sender}'s mail.", click(entry)


def _posts_by(ctx: OracleContext, user: str) -> list[list[Element]]:
    """For each post of a user, what can be clicked on it."""
    posts: list[list[Element]] = []
    inside = False
    for e in ctx.view:
        if e.tag == "#text" and "@" in e.name:
            inside = user in e.name.split()
            if inside:
                posts.append([])
        elif inside and e.id:
            posts[-1].append(e)
    return posts


@oracle("social-media")
def social_media(ctx: OracleContext) -> Step:
    """An icon of a user's post, or an entry of its menu."""
    user, button = ctx.ask(r'user (\S+), click on the "(.+)" button')
    post = first(_posts_by(ctx, user), f"post by {user}")
    for e in post:
        if e.name in (button, button.lower(), f"{button} {user}"):
            return f'Click "{e.name}" on the post by {user}.', click(e)
    more = first((e for e in post if e.name == "more"), "menu")
    return f"Open the menu on the post by {user}.", click(more)


@oracle("social-media-all", "social-media-some")
def several_posts(ctx: OracleContext) -> Step:
    """The same icon on all or on some of a user's posts, then submit."""
    if " all posts " in ctx.goal:
        button, user = ctx.ask(r'the "(\w+)" button on all posts by (\S+) and')
        posts = _posts_by(ctx, user)
    else:
        button, amount, user = ctx.ask(r'the "(\w+)" button on (\d+) posts? by (\S+) and')
        posts = _posts_by(ctx, user)[: int(amount)]
    for number, post in enumerate(posts, 1):
        icon = first((e for e in post if e.name.split()[0] == button.lower()), button)
        if click(icon) not in ctx.history:
            return f'Click "{icon.name}" on post {number} by {user}.', click(icon)
    return ctx.submit()


DISHES = {
    "Caesar Salad": ("vegan", "gluten-free"),
    "Garlic bread": ("vegan",),
    "Spinach and goat cheese dip": ("dairy", "gluten-free"),
    "Chicken wings": ("meat",),
    "Tofu and Vegetable stone pot": ("vegan", "gluten-free"),
    "Spicy Thai Peanut Chicken": ("meat", "peanuts"),
    "Grilled Pork Tenderloin": ("meat", "gluten-free"),
    "Spaghetti and Meatballs": ("meat",),
    "Cheese wheel": ("dairy", "gluten-free"),
    "Chocolate cake": ("dairy",),
    "Ice cream sundae": ("dairy", "peanuts", "gluten-free"),
    "Coconut mango tart": ("vegan",),
}
"""What the pictures beside order-food's dishes say."""


@oracle("order-food", privileged=True)
def order_food(ctx: OracleContext) -> Step:
    """Two dishes by name, or several of a kind."""
    if "one of each" in ctx.goal:
        (names,) = ctx.ask(r"each item: (.+)")
        wanted = [name.strip() for name in names.split(", ")]
    else:
        amount, kind = ctx.ask(r"Order (\d) items that are (\S+)")
        wanted = [next(n for n, kinds in DISHES.items() if kind in kinds)] * int(amount)
    done = len(ctx.history)
    if done == len(wanted):
        return ctx.submit("Order!")
    below = list(itertools.dropwhile(lambda e: e.name != wanted[done], ctx.view))
    dish = first(below, wanted[done])
    plus = first((e for e in below if e.name == "+"), "plus sign")
    return f"Add {dish.name}.", click(plus)

import numpy as np

from agentgym.environments.web.marks import Mark, draw_marks, marks_of, overlay_som
from agentgym.environments.web.view import Element, PageView
from agentgym.types import ImageArray


def white(width: int = 120, height: int = 80) -> ImageArray:
    return np.full((height, width, 3), 255, np.uint8)


def changed(image: ImageArray, of: ImageArray | None = None) -> list[list[int]]:
    """Left, top, right and bottom of what is not white any more."""
    ys, xs = np.nonzero((image != (white() if of is None else of)).any(axis=2))
    return [[int(xs.min()), int(ys.min())], [int(xs.max()), int(ys.max())]] if len(xs) else []


def told(box: list[float] | None, marked: bool = True) -> dict[str, object]:
    return {"set_of_marks": marked, "bbox": box, "visibility": 1.0, "clickable": True}


def test_marks_are_what_can_be_acted_on_in_view() -> None:
    view = PageView(
        (
            Element("1", "button", "a", box=(1, 2, 3, 4)),
            Element("", "text", "b"),
            Element("2", "link", "c", states=("offscreen",)),
        )
    )
    assert marks_of(view) == [Mark("1", (1, 2, 3, 4))]


def test_the_picture_given_is_not_changed() -> None:
    image = white()
    drawn = draw_marks(image, [Mark("1", (30, 30, 40, 20))])
    assert (image == 255).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8


def test_a_box_is_drawn_on_its_edge_and_the_label_above_it() -> None:
    drawn = draw_marks(white(), [Mark("7", (30, 30, 40, 20))])
    assert (drawn[30, 30:70] != 255).any(axis=1).all()
    assert (drawn[49, 30:70] != 255).any(axis=1).all()
    assert (drawn[32:48, 42:68] == 255).all()
    (left, top), (right, bottom) = changed(drawn)
    assert (left, right, bottom) == (30, 69, 49)
    assert 15 <= top < 30


def test_labels_stay_in_the_picture() -> None:
    drawn = draw_marks(white(), [Mark("12", (0, 0, 120, 80)), Mark("34", (110, 70, 40, 40))])
    assert changed(drawn) == [[0, 0], [119, 79]]
    # all of the second label: it has the box's colour and white letters
    label = (drawn == drawn[79, 119]).all(axis=2)
    assert label[:, :110].sum() + label[:70].sum() > 40


def test_boxes_that_cannot_be_seen_are_left_out() -> None:
    marks = [Mark("1", (10, 10, 4, 4)), Mark("2", (130, 10, 20, 20)), Mark("3", (10, -30, 20, 20))]
    assert changed(draw_marks(white(), marks)) == []


def test_neighbours_and_their_labels_differ() -> None:
    marks = [Mark(str(i), (10.0, 10.0 + 12 * i, 60.0, 12.0)) for i in range(5)]
    drawn = draw_marks(white(), marks)
    colors = {tuple(map(int, drawn[16 + 12 * i, 10])) for i in range(5)}
    assert len(colors) == 5
    # below each other in a list, labels go beside: every middle stays readable
    for i in range(5):
        assert (drawn[13 + 12 * i : 19 + 12 * i, 25:60] == 255).all()


def test_labels_keep_clear_of_texts() -> None:
    mark = Mark("7", (30, 30, 40, 20))
    (_, top), _ = changed(draw_marks(white(), [mark], texts=[(0, 10, 120, 20)]))
    assert top == 30  # beside the box and no longer above it


def test_browsergyms_marks() -> None:
    extra = {
        "a12": told([20, 20, 60, 40]),
        "1": told([20, 20, 60, 40], marked=False),
        "2": told([10, 70, 4, 4]),
        "3": told(None),
    }
    image = white()
    drawn = overlay_som(image, extra)
    assert (image == 255).all()
    edge = (drawn[60, 20:80] == 0).all(axis=1)  # 4 black, 8 not, ...
    assert 0.3 < edge.mean() < 0.6
    (left, top), (right, bottom) = changed(drawn)
    assert left >= 19
    assert top < 20
    assert bottom <= 62
    assert right <= 82
    assert (drawn == 255).any()

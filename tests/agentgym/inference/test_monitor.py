import threading

from agentgym.inference.monitor import Monitor


def test_text_of_every_kind() -> None:
    monitor = Monitor("x")
    plain = monitor.counter("plain_total", "A counter.")
    labelled = monitor.counter("labelled_total", "By route.", "route", "status")
    monitor.gauge("level", "A gauge.", lambda: 2.5)
    seconds = monitor.histogram("seconds", "A histogram.", (1.0, 0.1))
    plain.add()
    plain.add(2)
    labelled.add(1, "/b", "200")
    labelled.add(3, "/a", "500")
    for value in (0.05, 0.1, 0.5, 7.0):  # a bound counts itself
        seconds.observe(value)
    assert monitor.text() == (
        "# HELP x_plain_total A counter.\n"
        "# TYPE x_plain_total counter\n"
        "x_plain_total 3\n"
        "# HELP x_labelled_total By route.\n"
        "# TYPE x_labelled_total counter\n"
        'x_labelled_total{route="/a",status="500"} 3\n'
        'x_labelled_total{route="/b",status="200"} 1\n'
        "# HELP x_level A gauge.\n"
        "# TYPE x_level gauge\n"
        "x_level 2.5\n"
        "# HELP x_seconds A histogram.\n"
        "# TYPE x_seconds histogram\n"
        'x_seconds_bucket{le="0.1"} 2\n'
        'x_seconds_bucket{le="1"} 3\n'
        'x_seconds_bucket{le="+Inf"} 4\n'
        "x_seconds_sum 7.65\n"
        "x_seconds_count 4\n"
    )


def test_nothing_seen_yet() -> None:
    monitor = Monitor("x")
    monitor.counter("plain_total", "A counter.")
    monitor.counter("labelled_total", "By route.", "route")
    lines = [line for line in monitor.text().splitlines() if line[0] != "#"]
    assert lines == ["x_plain_total 0"]


def test_label_values_are_escaped() -> None:
    monitor = Monitor("x")
    monitor.counter("seen_total", "Seen.", "what").add(1, 'a"b\\c\nd')
    assert 'x_seen_total{what="a\\"b\\\\c\\nd"} 1\n' in monitor.text()


def test_counts_of_many_threads_add_up() -> None:
    monitor = Monitor("x")
    counter, histogram = monitor.counter("n_total", "N."), monitor.histogram("h", "H.", (1.0,))

    def work() -> None:
        for _ in range(500):
            counter.add()
            histogram.observe(0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "x_n_total 2000\n" in monitor.text()
    assert "x_h_count 2000\n" in monitor.text()

"""re6st.lab.latency_plot: pictures of single runs."""

from xml.etree import ElementTree

from re6st.lab.latency_plot import HEIGHT, MARGIN, plot

SVG = "{http://www.w3.org/2000/svg}"


def test_a_ping_is_a_dot_and_a_lost_one_is_red_on_top() -> None:
    root = ElementTree.fromstring(plot("a & b", [(-1.0, 0.001), (0.5, None), (2.0, 100.0)]))
    answered, lost, slow = root.iter(f"{SVG}circle")
    assert (answered.get("fill"), lost.get("fill"), slow.get("fill")) == ("#06c", "#d00", "#06c")
    heights = [float(dot.get("cy", "0")) for dot in (answered, lost, slow)]
    assert heights[1] == heights[2] == MARGIN < heights[0] < HEIGHT - MARGIN
    assert "a & b" in {text.text for text in root.iter(f"{SVG}text")}


def test_nothing_to_plot_is_a_picture_all_the_same() -> None:
    assert list(ElementTree.fromstring(plot("nothing", [])).iter(f"{SVG}circle")) == []

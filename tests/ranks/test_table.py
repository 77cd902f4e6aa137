"""The table of calls: whoever reads while another writes sees a whole record or none."""

from utils.ranks.table import REGION, SLOT, Table, reserve


def test_half_a_record_is_none(tmp_path):
    reserve(tmp_path / "table", 2)
    writer, reader = Table(tmp_path / "table", 0), Table(tmp_path / "table", 1)
    slot = writer._slot(0, 7, 1)
    SLOT.pack_into(writer.memory, slot, 7 ^ 1, 0)  # a writer stopped between the key and the length
    assert reader.get(0, 7, 1) is None
    assert reader.claim(7, 1, "all_reduce float32 [3]", [0]) is None
    assert writer.claim(7, 1, "all_reduce float64 [3]", [1]) == (1, "all_reduce float32 [3]"), "the later one sees it"
    assert len(writer.memory) == 2 * REGION

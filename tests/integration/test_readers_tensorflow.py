"""What the readers of metrics make of files and logs that TensorFlow and Keras write."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from remoterun.agent.measuring import lines, log_lines, tfevents
from tests.measured import in_pieces, read, values

pytestmark = pytest.mark.tensorflow


def test_tensorflows_own_files(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
    )
    kinds = (tf.float32, tf.float64, tf.float16, tf.int32, tf.int64)
    writer = tf.summary.create_file_writer(str(tmp_path / "new"))
    with writer.as_default():
        for step in (0, 1, 1000):
            for kind in kinds:
                tf.summary.write("val/" + kind.name, tf.constant(step, kind), step=step, metadata=metadata)
            tf.summary.write("picture", tf.constant(["x" * 300_000]), step=step, metadata=None)
            tf.summary.write("vector", tf.constant([1.0, 2.0]), step=step, metadata=metadata)
    writer.close()
    with tf.Graph().as_default():
        old = tf.compat.v1.summary.FileWriter(str(tmp_path / "old"))
        for step in (0, 1, 1000):
            value = tf.compat.v1.Summary.Value(tag="loss", simple_value=step / 4)
            histogram = tf.compat.v1.Summary.Value(tag="h", histo=tf.compat.v1.HistogramProto(min=1, bucket=[1.0]))
            made = tf.compat.v1.Summary.Value(tag="made", tensor=tf.make_tensor_proto(step, tf.int32))
            old.add_summary(tf.compat.v1.Summary(value=[histogram, value, made]), step)
        old.close()
    [path] = (tmp_path / "new").iterdir()
    points = in_pieces(tfevents.read, path.read_bytes())
    assert [(p.name, p.step, p.value) for p in points] == [
        ("val/" + kind.name, step, 1000 if step == 1000 else step) for step in (0, 1, 1000) for kind in kinds
    ]
    assert all(p.time is not None and abs(p.time - time.time()) < 3600 for p in points)
    [path] = (tmp_path / "old").iterdir()
    assert values(in_pieces(tfevents.read, path.read_bytes())) == [
        point for step in (0, 1, 1000) for point in (("loss", step, step / 4), ("made", step, step))
    ]


def test_keras(tmp_path: Path) -> None:
    """The output of Keras for each way to show progress."""
    pytest.importorskip("tensorflow")
    script = """
        import keras, numpy
        x, y = numpy.ones((400, 4)), numpy.ones((400, 1))
        for verbose in (1, 2):
            print("next", flush=True)
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse", metrics=["mae"])
            names = {"one%d.csv" % verbose: ",", "two%d.csv" % verbose: ";"}
            loggers = [keras.callbacks.CSVLogger(name, separator=each) for name, each in names.items()]
            model.fit(x, y, epochs=2, batch_size=20, validation_split=0.2, verbose=verbose, callbacks=loggers)
            model.evaluate(x, y, verbose=verbose, batch_size=10)
            model.predict(x, verbose=verbose)
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, timeout=240, check=True)
    for number, said in enumerate(done.stdout.split(b"next\n")[1:], 1):
        points = in_pieces(log_lines.read, said)
        state = read(log_lines.read, said)[1]
        assert state["total"] == 32, "two epochs of 16 batches"
        assert {name for name, *_ in points} == {"loss", "mae", "val_loss", "val_mae"}
        assert [point.step for point in points if point.name == "val_loss"] == [16, 32]
        assert all(point.step is not None and point.step <= 32 for point in points), "the evaluation is not counted"
        files = [tmp_path / f"{name}{number}.csv" for name in ("one", "two")]
        tables = [in_pieces(lines.read_table, file.read_bytes()) for file in files]
        assert tables[0] == tables[1]
        assert [point.step for point in tables[0] if point.name == "val_loss"] == [0, 1]
        last = {point.name: point.value for point in points}
        for point in tables[0][-4:]:
            assert last[point.name] == pytest.approx(point.value, rel=0.01, abs=1e-4)

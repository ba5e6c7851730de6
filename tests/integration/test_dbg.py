from tests.integration.test_faults import *
def test_x(box):
    client = box.client()
    run = submit(client, counting(2000, 3, 7))
    follow = box.follow(run.number)
    follow.lines(300)
    print([p for p in box.host.processes()])
    box.kill(".pyz supervise")
    print([p for p in box.host.processes()])
    follow.result()
    print([p for p in box.host.processes()])
    print((box.folder(run)/"events").read_text())

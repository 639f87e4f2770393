"""What the driver notes about itself, on real sockets and in a real window."""

import gc
import socket
from dataclasses import replace

import pytest
from samples import HEALTH, failed, record

from pytest_llmperf import clock
from pytest_llmperf.load.client.health import RunPeriod, client_health, merged_health
from pytest_llmperf.load.transport.tcp import NO_LOSSES, TcpLosses, tcp_losses


def test_a_connection_on_loopback_lost_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert tcp_losses(client) == NO_LOSSES


def test_a_socket_that_is_no_tcp_connection_tells_nothing():
    one, other = socket.socketpair()
    with one, other:
        assert tcp_losses(one) == TcpLosses(None, None)


def test_losses_add_up_and_unknown_stays_unknown():
    assert TcpLosses(1, 2).plus(TcpLosses(3, 0)) == TcpLosses(4, 2)
    assert TcpLosses(1, None).plus(TcpLosses(3, 0)) == TcpLosses(4, None)


def health(records, window=None, losses=()):
    return client_health(window or RunPeriod(), "kernel", [], records, [], losses)


def test_rates_of_the_schedule_and_of_the_sending():
    late = [record(due + lag, [due + 50.0], due_ms=due) for due, lag in ((0.0, 0.0), (100.0, 0.0), (200.0, 200.0))]
    client = health(late)
    assert (client.requested_rate, client.achieved_rate) == (10.0, 5.0)


def test_a_closed_loop_has_no_schedule():
    client = health([record(), record(40.0, [50.0])])
    assert (client.requested_rate, client.achieved_rate) == (None, None)


def test_one_request_or_none_has_no_rate():
    assert health([record(due_ms=0.0)]).requested_rate is None
    assert health([failed(None, due_ms=0.0)]).achieved_rate is None


def test_losses_of_all_connections_are_summed():
    client = health([], losses=[TcpLosses(1, 0), TcpLosses(2, 5)])
    assert (client.tcp_retransmits, client.tcp_out_of_order) == (3, 5)


def test_lateness_of_the_loops_timers():
    window = RunPeriod()
    window.loop_lags_s += [0.001] * 99 + [0.101]
    client = health([], window)
    assert client.loop_lag_max_ms == 101.0
    assert 1.0 <= client.loop_lag_p99_ms < 3.0
    assert health([]).loop_lag_p99_ms is None


def test_a_window_knows_its_collections_and_its_priority():
    window = RunPeriod()
    assert not window.is_open
    with window.open():
        assert window.is_open
        gc.collect()
    assert not window.is_open
    assert window.gc_collections == 1
    assert window.scheduling in ("real-time", "nice", "normal")


def test_the_health_of_several_processes_is_the_worst_of_each():
    one = replace(
        HEALTH, cpu_share=0.5, loop_lag_p99_ms=None, scheduling="real-time", clock_step_ns=-5, connect_ms=1.0, resent=3
    )
    other = replace(
        HEALTH, stamps="user", cpu_share=0.9, loop_lag_p99_ms=3.0, clock_step_ns=2, connect_ms=3.0, tcp_retransmits=2
    )
    records = [record(due, [due + 50.0], due_ms=due) for due in (0.0, 100.0, 200.0)]
    merged = merged_health([one, other], records)
    assert (merged.stamps, merged.cpu_share, merged.loop_lag_p99_ms) == ("user", 0.9, 3.0)
    assert (merged.scheduling, merged.clock_step_ns, merged.connect_ms) == ("normal", -5, 2.0)
    assert (merged.requested_rate, merged.tcp_retransmits, merged.resent) == (10.0, None, 3)


def test_turns_that_only_watch_the_clock_are_no_load(monkeypatch):
    """The shortest is such a turn; what longer ones took on top was work."""
    monkeypatch.setattr(clock, "thread_time", iter((1.0, 1.5)).__next__)
    monkeypatch.setattr(clock, "perf_counter", iter((10.0, 11.0)).__next__)
    window = RunPeriod()
    with window.open():
        for took_s in (0.3, 0.01, 0.02):
            window.idle_turn(took_s)
    assert window.cpu_share == pytest.approx(0.5 - 3 * 0.01)

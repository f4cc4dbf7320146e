"""The subscription of a scheduler as a table of phases and inputs. No I/O, no threads, no clock.

Whoever drives it (client.py) feeds inputs with the time they came at and carries out the actions it gets
back:

    IDLE --Start--> CONNECTING --answer 200--> OPENED --SUBSCRIBED--> SUBSCRIBED
      ^                 |  refused, lost          |                       | lost, silent, 403, stream replaced
      |                 v                         v                       v
      +-----------  WAITING (until a time) <------+-----------------------+
                        |
    SUPERSEDED (another instance holds our id)   FAILED (no use to go on)   CLOSED (we left)

Two connections: the stream, and one for all other calls, in order, because the order of ACCEPT, KILL,
RECONCILE and ACKNOWLEDGE decides what is true. The loss of either is the loss of the subscription. So many
calls may be under way (`Policy.window`), the others are queued; a call whose answer is lost is sent again
after the next SUBSCRIBED if that is harmless (calls.py), else its sender hears that nobody knows.

A master's silence: heartbeats come every 15 s; after five of those without a byte the stream is dropped, and
likewise a call that is not answered in that time. The sources for all of it are src/master/{http,master}.cpp.
"""

from collections import deque
from collections.abc import Callable, Mapping

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk.answers import (
    ends_subscription,
    fatal,
    has_body,
    leader_of,
    of_constraints,
    superseded,
    superseded_call,
)
from executor.framework.sdk.calls import repeatable, subscribe
from executor.framework.sdk.session_events import (
    Action,
    Answered,
    CallLost,
    CloseAll,
    Connected,
    Deliver,
    Disconnected,
    Failed,
    Fate,
    Input,
    Leader,
    Lost,
    Opened,
    OpenStream,
    Outcome,
    Received,
    RefreshCredential,
    Say,
    SendCall,
    Start,
    Stop,
    Superseded,
    Tick,
)
from executor.framework.sdk.session_state import (
    DEFAULT_HEARTBEAT,
    MAX_REDIRECTS,
    MISSED_HEARTBEATS,
    Pending,
    Phase,
    Policy,
    SessionState,
)

Event = scheduler_pb2.Event


class Session:
    """One framework's subscription. `info` is sent with each SUBSCRIBE; its id is set when it is known."""

    def __init__(self, info: mesos_pb2.FrameworkInfo, policy: Policy) -> None:
        self.info = mesos_pb2.FrameworkInfo()
        self.info.CopyFrom(info)
        self.suppressed: frozenset[str] = frozenset()
        self.constraints: scheduler_pb2.OfferConstraints | None = None
        self.problem = ""
        """Why there is no subscription, "" while there is one or the first attempt is under way."""
        self._policy = policy
        self._state = SessionState(candidates=deque(policy.masters))

    @property
    def phase(self) -> Phase:
        """Where the subscription stands."""
        return self._state.phase

    @property
    def generation(self) -> int:
        """The number of the stream that counts: another one means that all was begun anew."""
        return self._state.generation

    @property
    def waiting_calls(self) -> int:
        """Calls that are queued or under way."""
        return len(self._state.queue) + len(self._state.under_way)

    @property
    def alarm(self) -> float | None:
        """When `Tick` is due, None for never."""
        state = self._state
        times = [state.retry_at]
        if state.phase in (Phase.CONNECTING, Phase.OPENED):
            times.append(state.heard + self._policy.open_timeout)
        if state.phase is Phase.SUBSCRIBED:
            times.append(state.heard + MISSED_HEARTBEATS * state.heartbeat)
            if state.under_way:
                times.append(state.under_way[0].since + self._policy.call_timeout)
        return min((time for time in times if time is not None), default=None)

    def heard(self, now: float) -> None:
        """Bytes came on the stream, be they no whole record yet."""
        self._state.heard = now

    def handle(self, given: Input, now: float) -> list[Action]:
        """What is to be done about one input."""
        generation = getattr(given, "generation", self._state.generation)
        if generation != self._state.generation:
            return []  # late bytes of a stream that was given up
        rule = _TABLE.get((self._state.phase, type(given)), _TABLE.get((None, type(given))))
        return rule(self, given, now) if rule is not None else []

    # ---- connecting

    def _start(self, _given: Input, now: float) -> list[Action]:
        return self._attempt(now)

    def _attempt(self, now: float) -> list[Action]:
        state = self._state
        state.retry_at = None
        if not state.candidates:
            state.candidates.extend(self._policy.masters)
        if not state.candidates:
            state.phase = Phase.WAITING  # a detector will say who leads
            self.problem = "no master is known to lead"
            return []
        state.master = state.candidates[0]
        state.candidates.rotate(-1)
        return self._open(now)

    def _open(self, now: float) -> list[Action]:
        state = self._state
        state.phase = Phase.CONNECTING
        state.generation += 1
        state.stream_id = ""
        state.heard = now
        state.retry_at = None
        return [
            OpenStream(
                state.generation, state.master, subscribe(self.info, self.suppressed, self.constraints)
            )
        ]

    def _opened(self, given: Input, now: float) -> list[Action]:
        assert isinstance(given, Opened)
        state = self._state
        state.heard = now
        if given.status == 200:
            return self._accepted(given, now)
        if given.status == 307:
            return self._redirected(given, now)
        if given.status in (401, 403):
            return self._not_permitted(given, now)
        if given.status in (400, 405, 406, 415, 501):
            return self._fail(f"{state.master} answered {given.status} to SUBSCRIBE: {given.text}")
        return self._again(now, f"{state.master} answered {given.status} to SUBSCRIBE: {given.text}")

    def _accepted(self, given: Opened, now: float) -> list[Action]:
        state, wanted = self._state, self._policy.content_type
        if not given.stream_id:
            return self._again(now, f"{state.master} answered without a Mesos-Stream-Id")
        if given.content_type != wanted:
            return self._again(
                now, f"{state.master} answers in {given.content_type or 'no type'}, not in {wanted}"
            )
        state.phase = Phase.OPENED
        state.stream_id = given.stream_id
        return []

    def _redirected(self, given: Opened, now: float) -> list[Action]:
        state = self._state
        address = leader_of(given.location)
        state.redirects += 1
        if not address or address == state.master or state.redirects > MAX_REDIRECTS:
            return self._again(now, f"{state.master} redirects to {given.location!r}")
        state.master = address
        return [CloseAll(), *self._open(now)]

    def _not_permitted(self, given: Opened, now: float) -> list[Action]:
        state = self._state
        state.refusals += 1
        why = f"{state.master} answered {given.status} to SUBSCRIBE: {given.text}"
        if state.refusals >= self._policy.attempts_without_permission:
            return self._fail(why)
        return [RefreshCredential(), *self._again(now, why)]

    def _again(self, now: float, why: str) -> list[Action]:
        """Wait, with a delay drawn from a growing interval; the next candidate is tried at once the first
        time round.
        """
        state, policy = self._state, self._policy
        was, self.problem = state.phase, why
        actions: list[Action] = [CloseAll()]
        if was is Phase.SUBSCRIBED:
            actions += [Disconnected(why), *self._give_up_calls(why)]
            state.failures = 0
        state.phase = Phase.WAITING
        state.generation += 1
        state.failures += 1
        state.redirects = 0
        state.stream_id = ""
        others = max(len(policy.masters), 1)
        if state.failures < others and was is not Phase.SUBSCRIBED:
            state.retry_at = now
        else:
            rounds = state.failures - others
            high = min(policy.first_delay * 2 ** max(rounds, 0), policy.longest_delay)
            state.retry_at = now + policy.random(high)
        return actions

    def _lost(self, given: Input, now: float) -> list[Action]:
        assert isinstance(given, Lost)
        return self._again(now, given.why)

    def _leader(self, given: Input, now: float) -> list[Action]:
        """A detector's word counts for the next attempt; a stream that lives is not dropped for it."""
        assert isinstance(given, Leader)
        state = self._state
        state.candidates = deque([given.address] if given.address else self._policy.masters)
        if given.address and state.phase is Phase.WAITING:
            return self._attempt(now)
        return []

    # ---- events

    def _first_record(self, given: Input, now: float) -> list[Action]:
        assert isinstance(given, Received)
        state, event = self._state, given.event
        state.heard = now
        if event is None:
            return []
        if event.type == Event.SUBSCRIBED:
            first, given_id = not self.info.id.value, event.subscribed.framework_id.value
            if not given_id or (not first and given_id != self.info.id.value):
                # Under another id everything would be started a second time, and what runs be nobody's.
                return self._again(
                    now, f"{state.master} calls this framework {given_id!r}, which is {self.info.id.value!r}"
                )
            state.phase, self.problem = Phase.SUBSCRIBED, ""
            state.failures = state.redirects = state.refusals = 0
            announced = event.subscribed.heartbeat_interval_seconds
            state.heartbeat = min(max(announced, 1.0), 300.0) if announced > 0 else DEFAULT_HEARTBEAT
            self.info.id.CopyFrom(event.subscribed.framework_id)
            connected = Connected(self.info.id.value, state.master, first)
            return [connected, Deliver(event), *self._next_call(now)]
        if event.type == Event.ERROR:
            return self._error(event.error.message, now)
        return []

    def _record(self, given: Input, now: float) -> list[Action]:
        assert isinstance(given, Received)
        state, event = self._state, given.event
        state.heard = now
        if event is None or event.type in (Event.HEARTBEAT, Event.UNKNOWN):
            return []
        if not has_body(event):
            return []
        if event.type == Event.ERROR:
            return self._error(event.error.message, now)
        return [Deliver(event)]

    def _error(self, text: str, now: float) -> list[Action]:
        if superseded(text):
            return self._superseded(text)
        if self.constraints is not None and of_constraints(text):
            # They only spare offers: a master that refuses them is subscribed with without.
            self.constraints = None
            return self._again(now, f"the master refuses offer constraints: {text}")
        if fatal(text):
            return self._fail(text)
        return self._again(now, f"the master ended the subscription: {text}")

    def _superseded(self, why: str) -> list[Action]:
        return self._end(Phase.SUPERSEDED, Superseded(why), why)

    def _fail(self, why: str) -> list[Action]:
        return self._end(Phase.FAILED, Failed(why), why)

    def _end(self, phase: Phase, last: Action | None, why: str) -> list[Action]:
        state = self._state
        was = state.phase
        if last is not None:
            self.problem = why
        state.phase = phase
        state.generation += 1
        state.retry_at = None
        actions: list[Action] = [CloseAll()]
        if was is Phase.SUBSCRIBED:
            actions.append(Disconnected(why))
        actions += self._give_up_calls(why, keep=False)
        return [*actions, last] if last is not None else actions

    def _stop(self, _given: Input, _now: float) -> list[Action]:
        return self._end(Phase.CLOSED, None, "the framework leaves")

    # ---- calls

    def _say(self, given: Input, now: float) -> list[Action]:
        assert isinstance(given, Say)
        self._state.queue.append(Pending(given.token, given.call, now))
        return self._next_call(now)

    def _say_unsubscribed(self, given: Input, _now: float) -> list[Action]:
        assert isinstance(given, Say)
        return [Outcome(given.token, Fate.NOT_SENT, 0, "not subscribed")]

    def _next_call(self, now: float) -> list[Action]:
        state = self._state
        actions: list[Action] = []
        while state.queue and len(state.under_way) < self._policy.window and state.phase is Phase.SUBSCRIBED:
            pending = state.queue.popleft()
            state.under_way.append(pending)
            pending.since, pending.unsent = now, 0
            pending.call.framework_id.value = self.info.id.value
            actions.append(self._sending(pending))
        return actions

    def _sending(self, pending: Pending) -> SendCall:
        return SendCall(pending.token, self._state.master, self._state.stream_id, pending.call)

    def _answered(self, given: Input, now: float) -> list[Action]:
        assert isinstance(given, Answered)
        state = self._state
        pending = state.under_way[0] if state.under_way else None
        if pending is None or pending.token != given.token:
            return []
        if given.status in (200, 202):
            self._done(now)
            return [Outcome(given.token, Fate.TAKEN, given.status), *self._next_call(now)]
        if given.status == 400 and superseded_call(given.text):
            return self._superseded(f"a call was refused: {given.text}")
        if ends_subscription(given.status, given.text, pending.call):
            why = f"a call was answered {given.status}: {given.text}".removesuffix(": ")
            fresh = [RefreshCredential()] if given.status == 401 else []
            return [*fresh, *self._again(now, why)]
        self._done(now)
        return [Outcome(given.token, Fate.REFUSED, given.status, given.text), *self._next_call(now)]

    def _done(self, now: float) -> None:
        """The oldest call is answered; the next one's time runs from here: the master is at it."""
        self._state.under_way.popleft()
        if self._state.under_way:
            self._state.under_way[0].since = now

    def _call_lost(self, given: Input, now: float) -> list[Action]:
        """A connection that the master closed while it was idle, or said it would close, is made anew; else
        the subscription goes. It is the oldest call that is lost; what is true of it is true of those behind.
        """
        assert isinstance(given, CallLost)
        state = self._state
        pending = state.under_way[0] if state.under_way else None
        if pending is None or pending.token != given.token:
            return []
        pending.unsent += 1
        if not given.sent and pending.unsent == 1:
            return [self._sending(item) for item in state.under_way]
        if not given.sent:
            # Nobody has seen them: they wait for the next subscription like those behind them.
            state.queue.extendleft(reversed(state.under_way))
            state.under_way.clear()
        return self._again(now, f"a call was lost: {given.why}")

    def _give_up_calls(self, why: str, *, keep: bool = True) -> list[Action]:
        """What is queued waits for the next subscription, if it may be said again then."""
        state = self._state
        actions: list[Action] = []
        sent, waiting = list(state.under_way), list(state.queue)
        state.under_way.clear()
        state.queue.clear()
        for pending in sent:
            if keep and repeatable(pending.call):
                state.queue.append(pending)
            else:
                actions.append(Outcome(pending.token, Fate.UNKNOWN, 0, why))
        for item in waiting:
            if keep and repeatable(item.call):
                state.queue.append(item)
            else:
                actions.append(Outcome(item.token, Fate.NOT_SENT, 0, why))
        return actions

    # ---- time

    def _tick(self, _given: Input, now: float) -> list[Action]:
        state = self._state
        if state.phase is Phase.WAITING and state.retry_at is not None and now >= state.retry_at:
            return self._attempt(now)
        silent = self._silent(now)
        return self._again(now, silent) if silent else []

    def _silent(self, now: float) -> str:
        """Who has not been heard of for too long, "" for nobody."""
        state, policy = self._state, self._policy
        if state.phase in (Phase.CONNECTING, Phase.OPENED) and now >= state.heard + policy.open_timeout:
            return f"{state.master} does not answer"
        if state.phase is not Phase.SUBSCRIBED:
            return ""
        if now >= state.heard + MISSED_HEARTBEATS * state.heartbeat:
            return f"nothing was heard of {state.master} for {now - state.heard:.0f} s"
        if state.under_way and now >= state.under_way[0].since + policy.call_timeout:
            return f"{state.master} did not answer a call in {policy.call_timeout:g} s"
        return ""


_Rule = Callable[[Session, Input, float], list[Action]]

# Phase None stands for every phase that the table does not name.
_TABLE: Mapping[tuple[Phase | None, type], _Rule] = {
    (Phase.IDLE, Start): Session._start,
    (Phase.SUPERSEDED, Start): Session._start,
    (Phase.CONNECTING, Opened): Session._opened,
    (Phase.CONNECTING, Lost): Session._lost,
    (Phase.OPENED, Received): Session._first_record,
    (Phase.OPENED, Lost): Session._lost,
    (Phase.SUBSCRIBED, Received): Session._record,
    (Phase.SUBSCRIBED, Lost): Session._lost,
    (Phase.SUBSCRIBED, Say): Session._say,
    (None, Say): Session._say_unsubscribed,
    (Phase.SUBSCRIBED, Answered): Session._answered,
    (Phase.SUBSCRIBED, CallLost): Session._call_lost,
    (Phase.CLOSED, Stop): lambda _session, _given, _now: [],
    (None, Stop): Session._stop,
    (Phase.FAILED, Leader): lambda _session, _given, _now: [],
    (None, Leader): Session._leader,
    (None, Tick): Session._tick,
}

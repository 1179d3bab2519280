"""What an answer means for whoever asked, by its status and its body, and what is read of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.errors import RequestRefused, ServerBusy, ServerLost
from egrc_mega.testing.fake_server import right_reply
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.types import RolloutRequest, Sampling

Work = Callable[[ServerClient], Awaitable[Any]]
REQUEST = RolloutRequest(
    rid="r",
    prompt_id="p",
    prompt_ids=PROMPT_IDS,
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=()),
    seed=1,
)


class Script:
    """A server that gives its answers one after the other, whatever it is asked, and notes what that was."""

    def __init__(self, *answers: web.Response) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if not self.answers:
            await asyncio.sleep(3600)
        return self.answers.pop(0)

    def run(self, work: Work) -> Any:
        """What `work` makes of it."""

        async def served() -> Any:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            async with TestServer(app) as server, aiohttp.ClientSession() as session:
                return await work(ServerClient(session, str(server.make_url("")), 30.0))

        return asyncio.run(asyncio.wait_for(served(), 60))


def answer(body: Any, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)


GOOD = {"success": True, "message": ""}
FULL = "The request queue is full."
MEANINGS = [
    *((status, "", RequestRefused) for status in (400, 404, 405, 409, 413, 422, 499)),
    *((status, "", RolloutError) for status in (401, 403)),
    *((status, "", ServerBusy) for status in (408, 425, 429)),
    (503, FULL, ServerBusy),
    *((status, FULL, ServerLost) for status in (500, 502, 504)),
    (503, "loading", ServerLost),
    (201, "", ServerLost),
]


@pytest.mark.parametrize(("status", "text", "kind"), MEANINGS)
def test_a_status_says_whether_another_server_another_time_or_nothing_helps(
    status: int, text: str, kind: type[RolloutError]
) -> None:
    with pytest.raises(RolloutError, match=f"refused request r with {status}: {text}") as caught:
        Script(web.Response(status=status, text=text)).run(lambda client: client.generate(REQUEST))
    assert type(caught.value) is kind
    assert ("EGRC_API_KEY" in str(caught.value)) is (kind is RolloutError)
    assert getattr(caught.value, "status", status) == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nobody_follows_a_redirection(status: int) -> None:
    script = Script(web.Response(status=status, headers={"Location": "/elsewhere"}), answer({"weight_version": "v1"}))
    with pytest.raises(ServerLost, match=f"refused model info with {status}"):
        script.run(lambda client: client.model_info())
    assert script.asked == ["GET /model_info"]


@pytest.mark.parametrize("body", [{"success": False, "message": "no"}, {"message": "no"}, [], None])
def test_a_step_of_an_update_that_does_not_say_that_it_succeeded_has_not(body: Any) -> None:
    for step in (
        lambda client: client.update_weights_from_distributed({}, 30.0),
        lambda client: client.update_weights_from_tensor({}, 30.0),
        lambda client: client.end_weight_update(),
    ):
        with pytest.raises(ServerLost, match="answered /"):
            Script(answer(body)).run(step)
        Script(answer(GOOD)).run(step)


UNKNOWN, OPEN = (404, {"detail": "Not Found"}), (400, {"success": False, "message": "already open"})


@pytest.mark.parametrize(
    ("answers", "has_session", "asked"),
    [
        ([(200, GOOD)], True, ["begin"]),
        ([UNKNOWN], False, ["begin"]),
        ([OPEN, (200, GOOD), (200, GOOD)], True, ["begin", "end", "begin"]),
    ],
)
def test_a_session_that_was_left_open_is_closed_and_a_server_may_know_none(
    answers: list[tuple[int, Any]], has_session: bool, asked: list[str]
) -> None:
    script = Script(*(answer(body, status) for status, body in answers))
    assert script.run(lambda client: client.begin_weight_update()) is has_session
    assert script.asked == [f"POST /{verb}_weight_update" for verb in asked]


@pytest.mark.parametrize(("info", "count"), [({"tp_size": 4, "dp_size": 2}, 4), ({"tp_size": 1}, 1), ({}, 1)])
def test_a_server_has_as_many_ranks_as_its_tensors_are_split(info: Any, count: int) -> None:
    assert Script(answer(info)).run(lambda client: client.num_ranks()) == count


@pytest.mark.parametrize("size", [0, -1, "2", 1.0, None])
def test_a_number_of_ranks_that_is_none_is_nonsense(size: Any) -> None:
    with pytest.raises(ServerLost, match="answered server info with tp_size"):
        Script(answer({"tp_size": size})).run(lambda client: client.num_ranks())


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (
            {"loads": [{"num_running_reqs": 9, "num_waiting_reqs": 3}, {"num_running_reqs": 9, "num_waiting_reqs": 4}]},
            7,
        ),
        ({"loads": []}, 0),
        ({"loads": [{}]}, None),
        ([], None),
    ],
)
def test_the_queue_is_of_all_parts_of_a_server_and_unknown_where_it_does_not_say(body: Any, count: int | None) -> None:
    assert Script(answer(body)).run(lambda client: client.num_waiting()) == count


def test_checksums_are_rank_by_rank_in_order() -> None:
    ranks = [{"checksums": {"a": "1"}}, {"checksums": {"a": "2"}}]
    assert Script(answer({"ranks": ranks})).run(lambda client: client.checksums(30.0)) == [{"a": "1"}, {"a": "2"}]
    for body in ({}, {"ranks": [{}]}, []):
        with pytest.raises(ServerLost, match="answered checksums with something else"):
            Script(answer(body)).run(lambda client: client.checksums(30.0))


@pytest.mark.parametrize("served", ["v0", "v1-incomplete", None, ["v1"]])
def test_a_server_that_says_another_version_does_not_serve_this_one(served: Any) -> None:
    with pytest.raises(ServerLost, match="after an update to 'v1'"):
        Script(answer({"weight_version": served})).run(lambda client: client.confirm("v1"))
    Script(answer({"weight_version": "v1"})).run(lambda client: client.confirm("v1"))


def test_when_the_last_completion_came_is_known() -> None:
    body = {"rid": "r", "input_ids": [], "sampling_params": {"max_new_tokens": 4}}

    async def work(client: ServerClient) -> None:
        before = asyncio.get_running_loop().time()
        assert client.replied_at < before
        await client.generate(REQUEST)
        assert before <= client.replied_at <= asyncio.get_running_loop().time()
        assert client.usage.output == 4

    Script(answer(right_reply(body, "v1"))).run(work)


def test_whoever_hangs_up_waits_for_no_completion_any_longer() -> None:
    script = Script()

    async def work(client: ServerClient) -> list[Any]:
        calls = [asyncio.create_task(client.generate(REQUEST)) for _ in range(3)]
        while len(script.asked) < 3:
            await asyncio.sleep(0.01)
        client.hang_up()
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = script.run(work)
    assert [type(end) for end in ends] == [ServerLost] * 3
    assert all("fell silent while it had request r" in str(end) for end in ends)


def test_a_server_that_does_not_answer_in_time_is_lost() -> None:
    with pytest.raises(ServerLost, match=r"did not answer checksums within 0\.05 s"):
        Script().run(lambda client: client.checksums(0.05))

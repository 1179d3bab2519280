"""Every sentence of SECURITY.md is held by tests, and whatever is looked for in the whole tree or a whole run."""

import ast
from pathlib import Path

import pytest

from egrc_mega.testing.named_tests import missing, sentences

HELD: dict[str, tuple[str, ...]] = {
    "Rollout servers listen on loopback.": ("embedded/test_hostile_requests.py: a_server_listens_on_loopback",),
    "On any other address": (
        "rollout/test_keys.py: listening_to_others_needs_a_key",
        "rollout/test_keys.py: addresses_that_would_leak_or_stand_open_are_refused",
    ),
    "Keys come from the environment only": (
        "training/test_whole_run.py: keys_stand_in_no_file_of_a_run_and_in_nothing_that_it_says",
        "training/test_killed_trainer.py: a_killed_trainer_leaves_no_process_behind",
        "rollout/test_keys.py: a_launchers_log_has_no_keys_and_its_command_line_neither",
        "rollout/test_keys.py: addresses_that_would_leak_or_stand_open_are_refused",
        "report/test_report.py: secrets_of_configuration_and_command_line_are_withheld",
    ),
    "They are compared in constant time.": ("rollout/test_keys.py: keys_are_compared_in_constant_time",),
    "SGLang gets them in a temporary file": (
        "rollout/test_keys.py: a_launchers_log_has_no_keys_and_its_command_line_neither",
    ),
    "No secret goes where": (
        "rollout/test_keys.py: a_server_has_its_keys_and_no_other_secret_of_ours",
        "grading/test_pool.py: children_have_no_secret_variable_but_those_of_plugins_have",
    ),
    "Servers and graders start without": (
        "test_child_environment.py: secrets_are_found_by_their_names_and_by_passwords_in_urls",
        "rollout/test_keys.py: a_server_has_its_keys_and_no_other_secret_of_ours",
        "grading/test_pool.py: children_have_no_secret_variable_but_those_of_plugins_have",
    ),
    "The ranks of one machine": (
        "launch/test_loopback.py: nobody_of_another_machine_reaches_the_store_and_what_is_put_into_it_is_not_unpickled",
        "launch/test_loopback.py: torchrun_knows_the_meeting_by_the_name_that_a_launch_gives_it",
        "launch/test_train.py: torchrun_stands_alone_on_one_machine_and_meets_node_0_on_several",
    ),
    "A weight-update group": ("sync/test_carriers.py: every_rank_of_every_server_has_a_place_of_its_own_behind_ours",),
    "Its meeting point is on loopback": (
        "sync/test_group.py: the_meeting_point_is_open_at_its_address_only",
        "sync/test_buckets.py: servers_on_this_machine_find_us_on_the_loopback",
    ),
    "Model folders are untrusted input.": ("convert/test_hostile_files.py",),
    "`trust_remote_code` is off everywhere.": (
        "test_security.py: no_code_of_a_model_is_asked_for",
        "convert/test_companions.py: a_field_that_points_to_code_is_left_out_and_that_is_said",
    ),
    "Weights are read from safetensors only.": ("convert/test_hf_folder.py: pickled_weights_are_no_weights",),
    "An index that points outside its folder": (
        "convert/test_hf_folder.py: an_index_that_points_outside_the_folder_is_refused",
        "convert/test_companions.py: a_link_out_of_the_folder_is_refused_and_nothing_of_it_is_copied",
        "convert/test_companions.py: links_inside_the_folder_and_into_the_caches_blobs_are_followed",
    ),
    "Nothing of your home travels": (
        "convert/test_companions.py: a_link_out_of_the_folder_is_refused_and_nothing_of_it_is_copied",
    ),
    "Chat templates are rendered": (
        "data/test_template_oddities.py: a_template_that_cannot_be_used_is_one_line_that_names_it",
        "data/test_template_oddities.py: a_template_that_does_not_end_is_ended_by_its_cpu_time",
        "data/test_template_oddities.py: the_child_has_no_variable_that_could_be_a_key",
    ),
    "So are files.": ("test_yaml_text.py", "test_unpack.py"),
    "YAML whose aliases": ("test_yaml_text.py", "test_unpack.py"),
    "Data that never ends": (
        "test_unpack.py: what_never_ends_or_fits_into_no_memory_is_refused_in_a_line_and_not_read",
    ),
    "A text of more than": (
        "data/test_reader.py: a_gigantic_text_is_quarantined_without_being_looked_at",
        "evaluation/test_responses.py: a_row_that_never_ends_is_refused_before_it_fills_the_memory",
    ),
    "A server's announcement": (
        "rollout/test_keys.py: of_all_announcements_only_what_answers_is_taken_and_no_link_is_followed",
    ),
    "Nothing pickled crosses a trust line.": ("test_security.py: pickles_are_made_and_read_in_three_places_only",),
    "One pickle leaves the trainer": (
        "test_security.py: pickles_are_made_and_read_in_three_places_only",
        "config/test_load.py: contradictions_are_found_before_anything_starts",
    ),
    "Samples travel between ranks as safetensors": (
        "training/test_batch.py: every_bit_of_a_batch_arrives_in_its_place",
        "test_security.py: ranks_send_each_other_no_pickled_objects",
    ),
    "Megatron-core checkpoints hold pickles": (
        "convert/test_hostile_files.py: places_of_other_types_end_in_a_declared_error",
    ),
    "A resume loads them": (
        "training/test_whole_run.py: a_step_whose_pickle_would_run_code_is_refused_by_a_resume",
        "convert/test_hostile_files.py: before_a_step_is_loaded_its_metadata_is_looked_through",
        "convert/test_hostile_files.py: before_a_step_is_loaded_the_objects_beside_its_tensors_are_looked_through",
    ),
    "A manifest of SHA-256 sums finds damage": (
        "checkpoint/test_store.py: every_damage_to_every_file_is_found_and_the_file_is_named",
    ),
    "Names stay under their root.": ("test_security.py: names_that_lead_elsewhere_are_refused",),
    "What a configuration calls stages": ("test_security.py: names_that_lead_elsewhere_are_refused",),
    "Results that were made elsewhere": ("evaluation/test_results.py: a_name_that_leads_out_of_the_folder_is_refused",),
    "What has the name of a step but is a link": ("test_security.py: a_link_is_no_step",),
    "Only what was written here": (
        "convert/test_publish.py: only_what_was_written_here_is_replaced_and_what_others_put_there_stays_beside_it",
        "convert/test_publish.py: of_a_folder_with_a_torn_manifest_nothing_is_removed",
    ),
    "A run's folder in which a file": (
        "test_run_folder.py: a_file_that_is_a_link_out_of_the_folder_is_refused_and_what_it_leads_to_stays",
        "test_run_folder.py: a_lock_that_is_a_link_is_not_taken_and_what_it_leads_to_is_not_cut_short",
    ),
    "A folder in it may be a link": (
        "test_run_folder.py: links_that_stay_inside_or_lead_to_another_disk_or_a_device_are_no_obstacle",
    ),
    "Responses of the model are hostile text.": (
        "report/test_report_in_chromium.py: whatever_a_file_holds_stays_text",
    ),
    "The report shows everything as text": (
        "report/test_report_in_chromium.py: whatever_a_file_holds_stays_text",
        "report/test_report.py: the_page_needs_no_network_and_its_policy_lets_nothing_else_run",
    ),
    "Errors, console and `egrc rollouts`": ("test_plain_text.py",),
    "So does whatever else our programs print": (
        "observe/test_streams.py: nothing_that_is_printed_logged_or_raised_acts_on_a_terminal",
        "observe/test_streams.py: a_command_shows_the_name_of_a_hostile_folder_plain",
    ),
    "Answers are read by a grammar": ("grading/test_hostile.py: no_answer_executes_opens_or_imports_anything",),
    "What is costly is judged": (
        "grading/test_pool.py: an_answer_that_spends_its_cpu_time_is_wrong_and_costs_one_child",
        "grading/test_pool.py: a_child_has_a_memory_limit_and_no_core_file",
    ),
    "Servers are not believed.": ("rollout/test_wire.py",),
    "A reply has a size for its request.": (
        "rollout/test_faults.py: a_reply_too_long_for_its_request_is_not_read_to_its_end",
    ),
    "It is not unpacked": (
        "rollout/test_client.py: nobody_follows_a_redirection",
        "rollout/test_faults.py: a_reply_too_long_for_its_request_is_not_read_to_its_end",
    ),
    "It enters a batch only": (
        "rollout/test_wire.py: a_bad_reply_is_refused_by_name",
        "rollout/test_faults.py: a_reply_from_weights_of_another_version_is_never_used",
    ),
    "Who asks a server": ("embedded/test_hostile_requests.py",),
    "The embedded server refuses bodies": (
        "embedded/test_hostile_requests.py: a_field_of_another_type_is_named",
        "embedded/test_hostile_requests.py: a_body_or_a_head_that_is_too_large_is_refused",
    ),
    "It gives up who": (
        "embedded/test_hostile_requests.py: a_body_that_never_comes_is_given_up",
        "embedded/test_hostile_requests.py: a_head_that_never_ends_is_given_up",
    ),
    "More connections than": (
        "embedded/test_hostile_requests.py: more_connections_than_files_cost_a_line_and_no_request",
    ),
}
"""How a sentence begins -> the tests that hold it, as `named_tests.missing` reads them."""
ADVICE = (
    "There is no TLS of our own",
    "Where gloo and NCCL listen",
    "Those of several machines meet",
    "Whoever may write there",
    "Trackers have them",
)
"""What the reader is told to see to."""
UNPICKLES = {"convert/pickles.py", "convert/torch_dist.py"}
PICKLES = {"sync/ipc.py"}
PICKLED_COLLECTIVES = ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list")


def test_every_sentence_is_held_by_tests_that_there_are(root: Path) -> None:
    page = sentences((root / "SECURITY.md").read_text())
    assert len(page) > 30
    unheld = [sentence for sentence in page if not sentence.startswith((*HELD, *ADVICE))]
    assert unheld == []
    assert [start for start in (*HELD, *ADVICE) if not any(s.startswith(start) for s in page)] == []
    named = {name for names in HELD.values() for name in names}
    assert sorted(name for name in named if missing(root / "tests", name)) == []


def test_a_test_that_is_not_there_is_missed(root: Path) -> None:
    assert missing(root / "tests", "test_security.py: no_such_test")
    assert missing(root / "tests", "no_such_file.py: a_link_is_no_step")
    assert not missing(root / "tests", "test_security.py: a_link_is_no_step")


@pytest.fixture(scope="module")
def nodes(root: Path) -> list[tuple[str, ast.AST]]:
    """Every node of the product's files below egrc_mega, without what only tests use, with its file's name."""
    files = sorted((root / "egrc_mega").rglob("*.py"))
    names = [(file.relative_to(root / "egrc_mega").as_posix(), file) for file in files]
    product = [(name, ast.parse(file.read_text())) for name, file in names if not name.startswith("testing/")]
    return [(name, node) for name, tree in product for node in ast.walk(tree)]


def test_no_code_of_a_model_is_asked_for(nodes: list[tuple[str, ast.AST]]) -> None:
    num_loaders, wrong = 0, []
    for name, node in nodes:
        if isinstance(node, ast.Call):
            given = {word.arg: word.value for word in node.keywords}
            is_loader = isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
            value = given.get("trust_remote_code")
            is_off = isinstance(value, ast.Constant) and value.value is False
            num_loaders += is_loader
            wrong += [f"{name}:{node.lineno}"] * ((is_loader or "trust_remote_code" in given) and not is_off)
    assert num_loaders >= 3 and wrong == []


def test_pickles_are_made_and_read_in_three_places_only(nodes: list[tuple[str, ast.AST]]) -> None:
    modules = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    importing = set()
    for name, node in nodes:
        named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        importing |= {name} if modules & {each.split(".")[0] for each in named} else set()
    assert importing == UNPICKLES | PICKLES


def test_ranks_send_each_other_no_pickled_objects(nodes: list[tuple[str, ast.AST]]) -> None:
    calls = [(name, node) for name, node in nodes if isinstance(node, ast.Attribute)]
    assert [f"{name}:{node.lineno}" for name, node in calls if node.attr in PICKLED_COLLECTIVES] == []


ELSEWHERE = ("../../x", "/etc/x", "a/b", "..", "a\nb", "a\n", "")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from egrc_mega.sections.evaluation import SetName
    from egrc_mega.sections.stage import StageSection
    from egrc_mega.sections.study import Name

    for kind in (SetName, Name, StageSection.model_fields["label"].annotation):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(name)


def test_a_link_is_no_step(tmp_path: Path) -> None:
    from egrc_mega.checkpoint.store import CheckpointStore

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_000001").symlink_to(tmp_path / "elsewhere")
    assert CheckpointStore(tmp_path / "checkpoints", keep=1).newest() is None

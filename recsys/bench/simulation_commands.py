"""`recsys record` and `recsys simulate`: gate scores of a model, and policies side by side on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.errors import InputError


def record(
    model: Annotated[Path, typer.Argument(help="Model folder")],
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    out: Annotated[Path, typer.Argument(help="safetensors file to write")],
    requests: Annotated[int, typer.Option(help="Newest events of the data set that become requests")] = 1_000,
    candidates: Annotated[int, typer.Option(help="Candidates per request")] = 200,
) -> None:
    """Record the gate scores of a model on the requests of a data set, for `simulate` and `bench router`."""
    from recsys.bench.gate_recording import record_gates

    scores = record_gates(model, dataset, out, requests=requests, candidates=candidates, console=Console(stderr=True))
    Console().print("{} layers, {:,} requests, {} candidates, {} experts".format(*scores.shape), highlight=False)


def simulate(
    policies: Annotated[str, typer.Option(help="Names, with commas")] = "topk,drop,p2c,loss_free,price",
    gates: Annotated[Path | None, typer.Option(help="A file of `recsys record`; default generated scores")] = None,
    layer: Annotated[int, typer.Option(help="MoE layer of the recording")] = 0,
    experts: Annotated[int, typer.Option(help="Experts of generated scores")] = 16,
    tokens: Annotated[int, typer.Option(help="Tokens per batch")] = 1024,
    k: Annotated[int, typer.Option(help="Experts per token")] = 2,
    lanes: Annotated[int, typer.Option(help="Devices that own experts, 1 to 256")] = 16,
    slots_per_s: Annotated[float, typer.Option(help="Token slots per second that a lane can do")] = 8_000.0,
    utilisation: Annotated[float, typer.Option(help="Load over what all lanes can do")] = 0.5,
    deadline_ms: Annotated[float, typer.Option(help="What cannot be done by then is refused")] = 100.0,
    seconds: Annotated[float, typer.Option(help="Simulated time: a third calm, a third burst, a third moving")] = 30.0,
    spare: Annotated[int, typer.Option(help="Spare expert slots for hot experts")] = 0,
    slow: Annotated[list[str] | None, typer.Option(help="LANE:SPEED:FROM[:TO], seconds; may be repeated")] = None,
    dead: Annotated[list[str] | None, typer.Option(help="LANE:FROM[:TO], seconds; may be repeated")] = None,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="csv file to add the rows to")] = None,
) -> None:
    """Policies side by side on a stream of gate scores and a model of the devices: step times, goodput, score kept."""
    from recsys.bench.commands import add_to_csv
    from recsys.bench.gate_recording import load_gates
    from recsys.bench.simulation import compare, parse_fault, table
    from router.gates import GateSource, TopicGates
    from router.simulate import Scenario, crowd_story

    faults = [parse_fault(text, "--slow") for text in slow or ()] + [parse_fault(text, "--dead") for text in dead or ()]
    source: GateSource = load_gates(gates, layer=layer) if gates else TopicGates(experts, seed=seed)
    try:
        scenario = Scenario(
            tokens=tokens,
            k=k,
            phases=crowd_story(seconds),
            lanes=lanes,
            slots_per_s=slots_per_s,
            utilisation=utilisation,
            deadline_s=deadline_ms / 1e3,
            faults=tuple(faults),
            spare=spare,
            panel=min(32, tokens),
            seed=seed,
        )
        rows = compare(policies.split(","), source, scenario, console=Console(stderr=True))
    except ValueError as error:
        raise InputError(str(error)) from error
    Console(width=max(120, Console().width)).print(table(rows, scenario))
    if out is not None:
        add_to_csv(rows, out)

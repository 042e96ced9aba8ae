"""Pruned consensus in a program of your own, on the embedded model and the judge that `make demo` trains for it.

    make demo
    python examples/prune.py --problem "Rule oak. Start with 4. a-6 b#7 c-7."

Any other model works alike: give its folder or Hub id as --model, a judge trained for it as --judge, and a cap that
lets it finish as --max_tokens.
"""

import argparse
from pathlib import Path

from secateur import InputError, SamplingSpec, TransformersEngine, load_judge, prune
from secateur.runtime.process import entry_point

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "trainers" / "embedded_model"
DEMO = REPOSITORY / "outputs" / "demo"


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="model folder or Hub id")
    parser.add_argument("--judge", default=str(DEMO / "judges" / "linear_own_states" / "base"), help="judge folder")
    parser.add_argument("--problem", default="Rule oak. Start with 4. a-6 b#7 c-7.", help="its text")
    parser.add_argument("--n", type=int, default=64, help="traces")
    parser.add_argument("--prompt_family", help="deepseek, qwen or plain; by default that of the judge's traces")
    parser.add_argument("--dtype", default="float32", help="precision of the model, such as bfloat16")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--max_tokens", type=int, default=500, help="cap of each trace")
    options = parser.parse_args()
    for made_by_demo in (options.model, options.judge):
        if made_by_demo.startswith(str(DEMO)) and not Path(made_by_demo).is_dir():
            raise InputError(f"{made_by_demo} is not there: run `make demo` first, or give --model and --judge")

    judge = load_judge(options.judge, options.model)
    engine = TransformersEngine(
        options.model, dtype=options.dtype, device=options.device, capture_layers=judge.capture_layers
    )
    spec = SamplingSpec(max_tokens=options.max_tokens)
    result = prune(options.problem, engine, judge, n=options.n, spec=spec, prompt_family=options.prompt_family)

    print("answer:", result.answer)
    started = [trace for trace in result.traces if trace.status != "unstarted"]
    print("tokens:", result.usage.generated, f"in {len(started)} traces started of {len(result.traces)}")
    print("pruned:", sum(trace.status == "pruned" for trace in started), "traces")
    print("voted: ", len(result.decision.survivors), "traces")


if __name__ == "__main__":
    main()

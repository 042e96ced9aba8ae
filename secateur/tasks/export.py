"""Writes problems to a JSONL file: for machines without network, to read them, or to mend one.

    python -m secateur.tasks.export aime22+aime23 data/aime2223.jsonl

The golds are not checked here: a file with an unreadable answer is what one may want to mend.
"""

import argparse
import json
from dataclasses import asdict

from rich.markup import escape

from secateur.runtime.console import say
from secateur.runtime.files import write_text
from secateur.runtime.process import entry_point
from secateur.tasks.sources import read_source


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a set's name, a JSONL file, or several joined by +")
    parser.add_argument("path", help="the JSONL file to write")
    options = parser.parse_args()
    located = read_source(options.source)
    lines = [json.dumps(asdict(one.problem), ensure_ascii=False) + "\n" for one in located]
    write_text(options.path, "".join(lines))
    say(f"{len(located)} problems of {escape(options.source)} → {escape(options.path)}")


if __name__ == "__main__":
    main()

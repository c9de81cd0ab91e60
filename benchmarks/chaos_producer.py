"""Chaos producer: `submit SOURCE OUTPUT` or `resume ADDRESS` until the run is done, however often it takes.

Prints the run's address first, and one line for each thing that happens.
"""

import sys

import producer


def main(words: list[str]) -> None:
    """Do what a person at a shell would."""
    if words[0] == "submit":
        run = producer.submit("classify", words[1], output=words[2], on_event=_say)
    else:
        run = producer.open_run(words[1], on_event=_say).resume()
    print("address", run.address, flush=True)
    while run.wait().phase is producer.Phase.FAILED:
        for failure in run.report().failures:
            _say(f"given up: {failure.error}")
        run.resume()
    print("done", flush=True)


def _say(text: str) -> None:
    print("event", text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

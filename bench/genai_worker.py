"""onnxruntime-genai in a process of its own, for `dynamic.py genai`: python genai_worker.py FOLDER THREADS

Reads lines of JSON {"prompt": tokens, "count": tokens to generate}, and answers with the tokens, the seconds to the
first one and those of all others.
"""

from __future__ import annotations

import json
import sys
import time

import onnxruntime_genai as genai


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    config = genai.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = genai.Model(config)
    print(json.dumps(genai.__version__), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        params = genai.GeneratorParams(model)
        length = len(asked["prompt"]) + asked["count"]
        params.set_search_options(do_sample=False, min_length=length, max_length=length)
        generator = genai.Generator(model, params)
        begin = time.perf_counter()
        generator.append_tokens(asked["prompt"])
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(asked["count"] - 1):
            generator.generate_next_token()
        end = time.perf_counter()
        tokens = [int(token) for token in generator.get_sequence(0)[-asked["count"]:]]
        print(json.dumps({"tokens": tokens, "first_s": first - begin, "later_s": end - first}), flush=True)


if __name__ == "__main__":
    main()

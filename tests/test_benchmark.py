"""The benchmark's rival does what the tasks do, and no more.

A model's own settings must not enter generate(): the assignment's model, as published, has such.
"""

import benchmark
import transformers

import common
import task1_greedy

OWN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.5}


def test_generate_samples_from_the_whole_distribution(tiny_folder):
    folder = tiny_folder(9)
    transformers.GenerationConfig(**OWN).save_pretrained(folder)
    model = benchmark.load_rival(folder, "cpu")
    make_processors = model._get_logits_processor
    made = []

    def watched(*args, **settings):
        processors = make_processors(*args, **settings)
        made.append(list(processors))
        return processors

    model._get_logits_processor = watched
    benchmark.generate(model, [0, 1, 2], 5, do_sample=True)
    assert made == [[]]  # nothing changes the logits


def test_the_rivals_script_prints_the_greedy_texts(tiny_folder, capsys):
    folder = tiny_folder(9, letters=None)  # all bytes: it reads the prompts
    transformers.GenerationConfig(**OWN).save_pretrained(folder)
    benchmark.rival_script(folder, "cpu", 20)
    printed = capsys.readouterr().out
    model, tokenizer = common.load(folder)
    for input_text in common.PROMPTS.values():
        text = task1_greedy.greedy(model, tokenizer(input_text).input_ids, 20)
        assert tokenizer.decode(text.tokens) in printed

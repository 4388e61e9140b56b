"""The benchmark's rival does what the tasks do, and no more."""

import benchmark
import transformers


def test_a_models_own_settings_do_not_enter_generate(tiny_folder):
    """The assignment's model, as published, brings such ones."""
    folder = tiny_folder(9)
    own = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1
    )
    own.save_pretrained(folder)
    model = benchmark.load_rival(folder, "cpu")
    seen = []
    model._get_logits_processor = watched(model._get_logits_processor, seen)
    tokens = benchmark.generate(model, [0, 1, 2], 5, do_sample=True)
    assert len(tokens[0]) <= 5
    assert seen == [[]]  # no processor changes the logits


def watched(function, seen):
    def call(*args, **kwargs):
        processors = function(*args, **kwargs)
        seen.append([type(processor).__name__ for processor in processors])
        return processors

    return call

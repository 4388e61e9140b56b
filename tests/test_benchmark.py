"""The benchmark's rival does what the tasks do, and no more."""

import benchmark
import transformers


def test_a_models_own_settings_do_not_enter_generate(tiny_folder):
    """The assignment's model, as published, brings such ones."""
    folder = tiny_folder(9)
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}
    transformers.GenerationConfig(**own).save_pretrained(folder)
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

"""Section 5.4: training the located neurons (Tables 2 and 4, Fig. 9, appendices F and G).

Each test is one claim over model x sigma, over all datasets; its statement, margins and rule stand in
``caploc/papers/capability_localization/enhancement.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

enhancement, elsewhere = experiments.enhancement, experiments.enhancement_elsewhere

TABLE_2 = ("gsm8k", "emotion", "code25k")
"""What the paper trains on; a run without any of them trains on all that it has."""


@claim("table2-numbers", enhancement.table2_numbers, over="model", across=True)
def test_enhanced_scores() -> None:
    """Table 2: scores after 1, 5 and 10 epochs, such as 44.65 on average for the located neurons."""


@claim("table2-numbers", enhancement.table2_numbers, dataset="gsm8k", across=True)
def test_enhanced_scores_on_gsm8k() -> None:
    """Table 2, GSM8K."""


@claim("table2-numbers", enhancement.table2_numbers, dataset="emotion", across=True)
def test_enhanced_scores_on_emotion() -> None:
    """Table 2, Emotion."""


@claim("table2-numbers-code25k", enhancement.table2_numbers, dataset="code25k", across=True)
def test_enhanced_scores_on_code25k() -> None:
    """Table 2, Code25K, where located and random lie 0.67 to 2.67 points apart."""


@claim("table2-located-beats-random-each", enhancement.located_beats_random, preferred=TABLE_2, across=True)
def test_located_beats_random_on_a_dataset() -> None:
    """Section 5.4: "effectively improve the performance of the current task"."""


@claim("table2-small-portion-suffices", enhancement.small_portion_suffices, preferred=TABLE_2, across=True)
def test_a_small_portion_suffices_on_a_dataset() -> None:
    """Table 2, rows "located", against Table 3's base."""


@claim("table2-located-beats-random", enhancement.located_beats_random, over="model", across=True)
def test_located_beats_random() -> None:
    """Section 5.4: "we only need to update a small portion of parameters to effectively improve the performance"."""


@claim("table2-located-beats-wo-located", enhancement.located_beats_others, over="model", across=True)
def test_located_beats_all_others() -> None:
    """Table 2: 0.15 % of the neurons, located, against "set their parameter to 0 and fine-tune all other neurons"."""


@claim("table2-located-best-average", enhancement.located_best_average, over="model", across=True)
def test_located_has_the_best_average() -> None:
    """Table 2, columns "Avg.": "The best results are in bold"."""


@claim("table2-small-portion-suffices", enhancement.small_portion_suffices, over="model", across=True)
def test_a_small_portion_suffices() -> None:
    """Section 5: "we can significantly enhance the corresponding capabilities of the model"."""


@claim("table2-param-share", enhancement.param_share, over="model", across=True)
def test_share_of_trained_neurons() -> None:
    """Section 5.4: "the proportion of occupying the overall parameters of the neurons is 0.15%"."""


@claim("fig9-enhancement-loss", elsewhere.enhancement_loss, over="model", across=True)
def test_loss_ends_lower_for_located() -> None:
    """Fig. 9: "Enhancement loss with different sets of neurons"."""


@claim("table4-numbers", elsewhere.table4_numbers, over="model", across=True)
def test_changes_on_other_datasets() -> None:
    """Table 4: changes on datasets not trained on, such as 11.18 points for the located neurons."""


@claim("table4-located-best", elsewhere.table4_located_best, over="model", across=True)
def test_located_improves_other_datasets_most() -> None:
    """Section 5.4: "enhancing common neurons [...] also is beneficial for other types of tasks"."""


@claim("table4-harmless-updating", elsewhere.harmless_updating, over="model", across=True)
def test_updating_is_harmless() -> None:
    """Section 5.4: "This holds promise for harmless updating of LLM"."""

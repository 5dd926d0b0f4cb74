"""Many variants of one prompt as rows of a packed pass over a clean prefix.

A change at one token of one layer reaches no earlier token and no lower layer. So a changed run is a row that enters
the model where it first differs from a clean run, and attends to the clean keys and values in front of it; the Hugging
Face model's own layers do all the work. ``clean`` makes the clean run, ``model`` runs rows, ``caches`` has what their
attention sees, ``reading`` what is read out and the self-check, ``sizing`` how much is run at once, and ``borrowing``
gives the model back as it was.

A method is a description of its rows, a subclass of ``model.Rows``:

=================================  =======================================================  ================
method                             a row enters                                             and is changed
=================================  =======================================================  ================
``attribution.packed``             behind a layer's MLP, its neurons scaled by alpha        nowhere else
``interventions.scaling``          behind the MLP of its set's lowest layer                 in every layer
``locators.causal_tracing.rows``   behind the first layer that is restored                  in the window
``interventions.rank_one.value``   in front of the layer that is edited                     behind its MLP
``evaluation.rows``                behind the MLP of its set's lowest layer                 in every layer
=================================  =======================================================  ================
"""

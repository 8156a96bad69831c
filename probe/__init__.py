"""What does this update look like? Features of a delta, classifiers, the artefact. Pure: tensors in, scores out."""

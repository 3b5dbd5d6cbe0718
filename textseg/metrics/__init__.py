"""Scores of a test: a table with one row per case, everything else derived from it.

`textseg.metrics.case_table.CaseTable` is the only state. It holds pixel counts (and surface
distances at test time), so both meanings of "Dice" found in print are functions of the same rows:

* per image (`dice`, `miou`): the mean over cases of each case's own score;
* global (`dice_global`, `iou_global`): one count of pixels over the whole split. Only here does
  IoU = D / (2 - D) hold exactly between the two reported numbers.

Conventions: a pixel is foreground where its probability exceeds 0.5, that is where its logit
exceeds 0; only the foreground class is scored; an empty truth with an empty prediction scores 1 and
is counted in `empty_cases`, an empty truth with any prediction scores 0; logits are resized to the
truth, the truth never is. `protocol="lvit"` follows LViT's test code (arXiv 2206.14718) instead,
for comparison with its table only: empty with empty scores 0, and `lvit_pair` resizes the truth.

Scores are defined in the module `scores`, made of a test set in `summary`, and have intervals by
`bootstrap`; only `case_table`, which takes tensors, needs torch.
"""

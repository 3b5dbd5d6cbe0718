"""TMCA: Target-informed Multi-level Contrastive Alignments (Li et al., arXiv 2412.13533).

"Language-guided Medical Image Segmentation with Target-informed Multi-level Contrastive
Alignments". A reconstruction: the authors' repository holds no code. Read were the abstract (its
third version, too), captions and a digest by others; not read was the full text with its equations,
so differences are to be expected.

From its abstract and captions:
- a target-sensitive semantic distance module: disease-relevant local regions, rather than whole
  images, are aligned with the description;
- a multi-level strategy: the contrastive alignment also reaches low-level features, which carry the
  lesion's boundary;
- a language-guided target enhancement module: attention to critical regions, reinforced by the
  aligned patterns of image and text; the digest describes cross-modal attention and modulation by
  the text.

Our choice:
- every formula of the three modules, and every number;
- ConvNeXt-T and a frozen CXR-BERT; one pair of projections phi_l, psi_l for each level, the pixels'
  with a position embedding, because captions say where;
- equal captions are positives of each other, rows of one image with another caption are left out;
- each row's own background is a further negative of its text: it makes the loss target-sensitive;
- the enhancement reads the text in the aligned embedding only: cross-attention to its words, and
  FiLM (Perez et al. 2018), both behind a spatial gate of the similarity that the alignment trains;
- enhanced levels go to the decoder; `enhancement_feeds_encoder` lets the encoder read them as well;
- "feature-guided text prompting" for boundaries, which the digest mentions, is not built;
- the decoder: transposed convolutions, residual blocks, and a sub-pixel convolution to the logits.

Shapes: B rows of a process, N rows of all processes, L tokens, T width of the text encoder,
D width of the shared embedding;
level l = 1..4 has C_l channels on H_l x W_l = H/4..H/32 x W/4..W/32.
"""

from textseg.models.tmca.network import TMCA

__all__ = ["TMCA"]

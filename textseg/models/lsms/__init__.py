"""LSMS: Language-guided Scale-aware MedSegmentor (Ouyang et al., arXiv 2408.17347).

A reconstruction. Read were the abstract, the captions of the figures and a digest by others; not
read was the full text, which holds 15 equations, so differences are to be expected. Neither code
nor RefHL-Seg is released.

From its abstract and captions:
  * the task, referring lesion segmentation: outline the lesion that an expression refers to;
  * a vision embedding gives V_1 and BERT gives L; both enter a language-guided vision encoder of
    four stages whose blocks hold the Scale-aware Vision-Language Attention (SVLA), giving
    multi-modal features F_1..F_4;
  * SVLA has convolution kernels of several receptive fields, each of which interacts with the
    language, in parallel;
  * the Full-Scale Decoder (FSD): Position Alignment brings F_1..F_4 to one grid with their own
    channel counts (P_1..P_4), and P_2, P_3, P_4 are modeled globally across scales;
  * loss: segmentation loss + vision-language contrastive loss.

Our choice:
  * the visual half of SVLA is SegNeXt's MSCAN attention (Guo et al. 2022): 5x5 depthwise, then
    strips of 7, 11 and 21; widths and depths are its tiny, small and base, its parameter names are
    kept and its published weights load by name;
  * the language branch: one multi-head cross-attention from the positions of the maps, with a 2-D
    position embedding, to the text tokens. Its heads are dealt to the 5x5 map and the three strips'
    ("per_scale"), each with a quarter of the width, so that four maps cost what one does, or all
    are of the 5x5 map ("shared", as in the same authors' SLViT). Maps are normalized by channel
    before they ask, so that none drowns its position, and so is the result, which a tanh MLP gates:
    open from scratch, closed over published image weights, where F_1..F_4 are then the plain
    MSCAN's at the first step. The blocks of a stage share the tokens' keys and values;
  * the FSD's grid is at 1/4 of the input, where F_1 lies: at 1/8 no logits draw small lesions well
    (experiments/README.md). Its global operator is two pre-norm self-attention layers over the
    squeezed joint map. P_2..P_4 hold nothing finer than 1/8, so it works there, and its keys are
    means of 2x2 positions (`decoder_reduction`: a quarter of the attention's cost); its map is
    resized to the grid, and P_1 joins it there, for boundaries;
  * the contrastive term is text to pixel, sigmoid by position, balanced by class, weight 0.1;
  * layer scale, kernel sizes, widths, and all settings of training.

Shapes: image [B, 3, H, W], H and W multiples of 32; tokens [B, L, D];
F_i [B, C_i, H/s_i, W/s_i] with strides s = 4, 8, 16, 32; decoder map
[B, decoder_dim, H/s, W/s], s = decoder_stride.
"""

from textseg.models.lsms.network import LSMS

__all__ = ["LSMS"]

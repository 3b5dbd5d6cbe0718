"""TMC: Text-guided Multi-stage Cross-perception network (Chen and Pan, arXiv 2506.07475).

A reconstruction: no code is released. Read were the abstract, the captions of the figures and a
digest by others; not read was the full text with its 15 equations, so differences are to be
expected.

From its abstract and captions:
  * a Swin-based visual encoder, a BERT-based language encoder, and a U-shaped CNN decoder that
    takes the fused multi-scale features to the mask;
  * the Multi-stage Cross-attention Module (MCM): at selected stages, cross-attention in both
    directions between the visual feature V_i and the language feature L_i gives F_V^i;
  * the Multi-stage Alignment Loss (MA Loss): before each cross-attention block, L_align^i aligns
    the stage's visual and textual embeddings; L_seg supervises the mask.

Our choice:
  * F_V^i goes to the decoder; `mcm_feeds_encoder` lets the encoder's next stage read it as well;
  * L_i = LN(W_i T_i). T_1 is BERT's output, and T_{i+1} = T_i + U_i F_L^i propagates the updated
    tokens to the next selected stage. The last F_L, averaged over the tokens, conditions the
    coarsest feature by FiLM (Perez et al. 2018), so that every branch reaches the mask;
  * both directions of MCM read the same V_i and L_i, pre-norm; every sub-layer, and FiLM too, has a
    gate by channel that starts open, at 1: from 0 the words came too late to be read. It starts at
    0 where `mcm_feeds_encoder` puts it into a pretrained encoder, which so begins as it was. Heads
    are 32 wide, FFNs twice as wide as the stage, and a 2-D position embedding is added to the
    image's queries and keys, because captions name positions ("upper left");
  * MA Loss (alignment.py) knows place: the image's positions have a position embedding, and
    the mask says, in training only, which of them the caption is about: without it, a caption was
    no nearer to its image than the mirrored one. "infonce": the lesion's mean against all captions,
    symmetric, over the batches of all processes; equal captions are positives of each other, and
    rows of one image with different captions neither positive nor negative. "pixel": each position
    against its own caption. 256 channels, temperature from 0.07, kept in [0.01, 1].
    L = L_seg + 0.1 * mean_i L_align^i;
  * the text that it compares is LN(W_i T_1), tokens that no image has updated. L_i, which enters
    the block, is an option (`alignment_text: stage`): L_i of the later stages has seen its own
    image, so that the loss can in part be met by recognizing what was copied. No gradient of it
    teaches MCM to copy;
  * the decoder's widths are the encoder's, a coarser map is reduced to them by a 1x1 convolution
    before it is upsampled, and the head works at the finest stage;
  * all settings of training.

Shapes: image [B, 3, H, W], H and W multiples of 32; text tokens T [B, L, D], mask [B, L]; stage
i = 1..4: V_i and F_V^i [B, C_i, H_i, W_i] at strides 4, 8, 16, 32, N_i = H_i W_i positions;
L_i and F_L^i [B, L, C_i].
"""

from textseg.models.tmc.network import TMC

__all__ = ["TMC"]

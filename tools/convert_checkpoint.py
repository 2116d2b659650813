#!/usr/bin/env python3
"""Convert weights of other people's models; every tensor is used, or listed with the reason why not.

    tools/convert_checkpoint.py hf-deformable-detr deformable-detr-with-box-refine/ refine.pth
    tools/convert_checkpoint.py deformable-detr r50_deformable_detr-checkpoint.pth one_stage.pth
    tools/convert_checkpoint.py hf-conditional-detr conditional-detr-resnet-50/ conditional.pth
    tools/convert_checkpoint.py dino checkpoint0011_4scale.pth dino.pth
    tools/convert_checkpoint.py opera-dk-detr dk-detr_r50_70e_lvis.pth dk_detr.pth
    tools/convert_checkpoint.py torchvision-resnet resnet50-11ad3fa6.pth R-50.pth
    tools/convert_checkpoint.py regionclip regionclip_finetuned-lvis_rn50.pth rn50.pth --localizer rpn_lvis_866_lsj.pth
    tools/convert_checkpoint.py open-clip ViT-B-32.pt clip.pth

It says which config fits. Nothing in the input is run; --leave names what is not to be used, by how the names begin.
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.convert_checkpoint import main
from dk_detr.convert import SOURCES


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=SOURCES, help="whose names the input uses")
    parser.add_argument("input", help="a checkpoint, or a folder with config.json and model.safetensors")
    parser.add_argument("output", help="a .pth file, for MODEL.WEIGHTS or MODEL.CLIP.WEIGHTS")
    parser.add_argument("--leave", metavar="PREFIX", nargs="+", default=[], help="names that begin so are not used")
    parser.add_argument("--localizer", default="", metavar="FILE", help="regionclip: whose proposal network joins in")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())

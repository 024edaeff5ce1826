"""The endpoint on Ray Serve over a model that answers by rule, as slowly as the sentence says."""

from egoray.config import ServeConfig, load
from egoray.serve.ray_serve import application
from support.served import Paced


class AsTold(Paced):
    """`Paced` whose seconds a frame are the last word of the first sentence, if that is a number."""

    def stream(self, clip, texts):
        last = texts[0].split()[-1]
        self.seconds_a_frame = float(last) if last[0].isdigit() else 0.0
        return (yield from super().stream(clip, texts))


def as_told(name, device, **options):
    return AsTold()


def build(args):
    return application(load(ServeConfig, None, defaults=args), as_told)

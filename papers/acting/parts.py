"""The parts of the study: what each measures, shows and claims."""

from __future__ import annotations

from common import data
from common.keeping import Run
from common.study import Section, plain

from acting import autoencoder, claims, drawing, million, page, saddles
from acting.settings import Settings


def passages(run: Run, s: Settings) -> Section:
    """Steps away from two saddles."""
    plane = run.arrays("plane", (s.escapes, s.radii, s.plane_steps), lambda: saddles.plane(s))
    own = run.arrays("own", (s.seeds, s.linear_steps), lambda: saddles.own(s))
    text = f"{page.plane(plane, s)}\n\n**A network's own.** {page.own(own, s)}"
    found = [claims.leaves_at_once(plane["steps"], own["steps"])]
    numbers = {"plane": plane["steps"], "own": own["steps"]}
    return Section(text, found, drawing.passages(plane, own, s), numbers)


def deep(run: Run, s: Settings) -> Section:
    """The autoencoder, images of 14 x 14 pixels."""
    images = data.digits(examples=s.examples, pool=2)[0].float()
    found = autoencoder.measure(run, images, s)
    best, constant = autoencoder.floor(images), autoencoder.mean_image(images)
    by_gradients = autoencoder.lowest(found["courses"], "gradients", s.gradients)
    by_seconds = autoencoder.lowest(found["courses"], "seconds", s.seconds)
    text = page.deep(found, best, constant, s)
    claim = claims.hessian_free_is_ahead(by_gradients, by_seconds)
    figure = drawing.autoencoders(found, best, constant)
    return Section(text, [claim], figure, {"at gradients": by_gradients, "at seconds": by_seconds})


def large(run: Run, s: Settings) -> Section:
    """Steps to the loss of Adam."""
    X, y = data.digits(examples=s.images)
    found = million.measure(run, (X.float(), y), s)
    units = ("steps", "gradients", "seconds")
    reached = {
        name: {unit: million.to_adams(found["courses"], name, unit) for unit in units}
        for name in found["courses"]
    }
    claim = claims.fewer_steps_at_a_price(reached)
    return Section(page.large(found, s), [claim], drawing.steps(found), plain(reached))

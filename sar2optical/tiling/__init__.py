"""Windows over a scene, their blending, and the filling of invalid pixels, in numpy."""
